package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A node is an object of JSON.
type node = map[string]any

// A document is the OpenAPI document.
type document struct{ root node }

// follow returns what a $ref stands for.
func (d document) follow(t *testing.T, n node) node {
	t.Helper()
	target, ok := n["$ref"].(string)
	if !ok {
		return n
	}
	require.Len(t, n, 1, "nothing stands beside a $ref")
	at := d.root
	for _, name := range strings.Split(strings.TrimPrefix(target, "#/"), "/") {
		next, ok := at[name].(node)
		require.True(t, ok, target)
		at = next
	}
	return at
}

// check returns what is wrong with a value, by a schema of which it knows all that the document uses.
func (d document) check(t *testing.T, schema node, v any) error {
	t.Helper()
	schema = d.follow(t, schema)
	kind := map[string]bool{}
	switch v := v.(type) {
	case node:
		kind["object"] = true
	case []any:
		kind["array"] = true
	case string:
		kind["string"] = true
	case bool:
		kind["boolean"] = true
	case float64:
		kind["number"] = true
		kind["integer"] = v == math.Trunc(v)
	}
	if want, ok := schema["type"].(string); !ok || !kind[want] {
		return fmt.Errorf("%v is not %v", v, schema["type"])
	}
	for keyword, want := range schema {
		var ok bool
		switch keyword {
		case "type", "description", "default", "properties":
			ok = true
		case "required":
			ok = true
			for _, name := range want.([]any) {
				_, there := v.(node)[name.(string)]
				ok = ok && there
			}
		case "additionalProperties":
			ok = true
			known, _ := schema["properties"].(node)
			for name, value := range v.(node) {
				if p, is := known[name].(node); is {
					if err := d.check(t, p, value); err != nil {
						return fmt.Errorf("%s: %w", name, err)
					}
				} else if p, is := want.(node); is {
					if err := d.check(t, p, value); err != nil {
						return fmt.Errorf("%s: %w", name, err)
					}
				} else {
					return fmt.Errorf("%s is not in the document", name)
				}
			}
		case "items":
			ok = true
			for _, value := range v.([]any) {
				if err := d.check(t, want.(node), value); err != nil {
					return err
				}
			}
		case "minItems":
			ok = float64(len(v.([]any))) >= want.(float64)
		case "maxItems":
			ok = float64(len(v.([]any))) <= want.(float64)
		case "minimum":
			ok = v.(float64) >= want.(float64)
		case "maximum":
			ok = v.(float64) <= want.(float64)
		case "maxLength":
			ok = float64(len(v.(string))) <= want.(float64)
		case "pattern":
			ok = regexp.MustCompile(want.(string)).MatchString(v.(string))
		case "const":
			ok = v == want
		case "enum":
			ok = slices.Contains(want.([]any), v)
		case "format":
			switch want {
			case "date-time":
				_, err := time.Parse(time.RFC3339, v.(string))
				ok = err == nil
			case "uri":
				u, err := url.Parse(v.(string))
				ok = err == nil && u.IsAbs()
			case "uri-reference":
				_, err := url.Parse(v.(string))
				ok = err == nil
			}
		}
		if !ok {
			return fmt.Errorf("%v is not as %s: %v says", v, keyword, want)
		}
	}
	return nil
}

// A stuckCoder proposes what is taken.
type stuckCoder string

func (c stuckCoder) propose(context.Context, string, int) (string, bool, error) {
	return string(c), false, nil
}

// TestOpenAPI compares the document with what is answered: each answer that is documented is brought about, it is of
// the form that the document says, and no other comes.
func TestOpenAPI(t *testing.T) {
	t.Parallel()
	const key = "0123456789abcdef"
	plain := serveApp(t, nil)
	keyed := serveApp(t, func(s *settings) { require.NoError(t, s.keys.add("ann="+key)) })
	limited := serveApp(t, func(s *settings) { s.unlimited = false })
	broken := serveApp(t, nil)

	_, body := plain.do(t, "GET", "/openapi.json", "")
	d := document{}
	require.NoError(t, json.Unmarshal([]byte(body), &d.root))
	require.Equal(t, "3.1.0", d.root["openapi"])
	components := d.root["components"].(node)
	schemas := components["schemas"].(node)

	const example = `{"url":"https://example.com/"}`
	plain.create(t, `{"url":"https://example.com/","alias":"temporary"}`)
	plain.create(t, `{"url":"https://example.com/","alias":"permanent","permanent":true}`)
	plain.create(t, `{"url":"https://example.com/","alias":"to-delete"}`)
	resp, _ := plain.do(t, "GET", "/temporary", "", "Referer", "https://news.example/")
	require.Equal(t, 302, resp.StatusCode)
	require.Eventually(t, func() bool {
		_, body := plain.do(t, "GET", "/api/links/temporary", "")
		return strings.Contains(body, `"news.example":1`)
	}, 20*time.Second, 20*time.Millisecond)
	for _, db := range broken.app.store.opened {
		require.NoError(t, db.Close())
	}
	broken.app.links.guard.Admit("abcdefg") // there may be such a link: only the database knows

	full := `{"url":"https://example.com/","alias":"with-all","permanent":true,"expires_in":3600}`
	var request any
	require.NoError(t, json.Unmarshal([]byte(full), &request))
	require.NoError(t, d.check(t, schemas["NewLink"].(node), request))
	var fields []string
	for f := range reflect.TypeFor[createRequest]().Fields() {
		fields = append(fields, f.Tag.Get("json"))
	}
	require.ElementsMatch(t, fields, slices.Collect(maps.Keys(schemas["NewLink"].(node)["properties"].(node))))
	newLink := schemas["NewLink"].(node)["properties"].(node)
	require.EqualValues(t, maxTarget, newLink["url"].(node)["maxLength"])
	require.EqualValues(t, maxExpiry/time.Second, newLink["expires_in"].(node)["maximum"])
	require.Equal(t, fmt.Sprintf("^[0-9A-Za-z_-]{%d,%d}$", minAlias, maxAlias), newLink["alias"].(node)["pattern"])

	cross := []string{"Sec-Fetch-Site", "cross-site"}
	type c struct {
		f            *served
		method, path string // as documented
		code, query  string
		body         string
		headers      []string
		status       int
	}
	cases := []c{
		{plain, "post", "/api/links", "", "", example, nil, 201},
		{plain, "post", "/api/links", "", "", full, nil, 201},
		{plain, "post", "/api/links", "", "", "{", nil, 400},
		{keyed, "post", "/api/links", "", "", example, nil, 401},
		{plain, "post", "/api/links", "", "", example, cross, 403},
		{plain, "post", "/api/links", "", "", `{"url":"https://example.com/","alias":"temporary"}`, nil, 409},
		{plain, "post", "/api/links", "", "", `{"url":"` + long(maxBody) + `"}`, nil, 413},
		{plain, "post", "/api/links", "", "", example, []string{"Content-Type", "text/plain"}, 415},
		{plain, "post", "/api/links", "", "", "{}", nil, 422},
		{limited, "post", "/api/links", "", "", example, nil, 429},
		{broken, "post", "/api/links", "", "", example, nil, 503},
		{plain, "get", "/api/links", "", "", "", nil, 200},
		{plain, "get", "/api/links", "", "?limit=1", "", nil, 200},
		{plain, "get", "/api/links", "", "?limit=0", "", nil, 400},
		{keyed, "get", "/api/links", "", "", "", nil, 401},
		{keyed, "get", "/api/links", "", "", "", []string{"Authorization", "Bearer " + key}, 200},
		{keyed, "get", "/api/links", "", "", "", []string{"X-API-Key", key}, 200},
		{limited, "get", "/api/links", "", "", "", nil, 429},
		{broken, "get", "/api/links", "", "", "", nil, 503},
		{plain, "get", "/api/links/{code}", "temporary", "", "", nil, 200},
		{plain, "get", "/api/links/{code}", "with-all", "", "", nil, 200},
		{keyed, "get", "/api/links/{code}", "temporary", "", "", nil, 401},
		{plain, "get", "/api/links/{code}", "nothing", "", "", nil, 404},
		{limited, "get", "/api/links/{code}", "nothing", "", "", nil, 429},
		{broken, "get", "/api/links/{code}", "abcdefg", "", "", nil, 503},
		{plain, "delete", "/api/links/{code}", "to-delete", "", "", nil, 204},
		{keyed, "delete", "/api/links/{code}", "nothing", "", "", nil, 401},
		{plain, "delete", "/api/links/{code}", "temporary", "", "", cross, 403},
		{plain, "delete", "/api/links/{code}", "nothing", "", "", nil, 404},
		{limited, "delete", "/api/links/{code}", "nothing", "", "", nil, 429},
		{broken, "delete", "/api/links/{code}", "abcdefg", "", "", nil, 503},
		{plain, "get", "/api/status", "", "", "", nil, 200},
		{broken, "get", "/api/status", "", "", "", nil, 200},
		{plain, "get", "/healthz", "", "", "", nil, 200},
		{plain, "get", "/readyz", "", "", "", nil, 200},
		{broken, "get", "/readyz", "", "", "", nil, 503},
		{plain, "get", "/metrics", "", "", "", nil, 200},
		{plain, "get", "/openapi.json", "", "", "", nil, 200},
	}
	for _, method := range []string{"get", "head"} {
		cases = append(cases, c{plain, method, "/{code}", "permanent", "", "", nil, 301}, c{plain, method, "/{code}", "temporary", "", "", nil, 302},
			c{plain, method, "/{code}", "nothing", "", "", nil, 404}, c{limited, method, "/{code}", "nothing", "", "", nil, 429},
			c{broken, method, "/{code}", "abcdefg", "", "", nil, 503})
	}

	seen := map[string]bool{}
	paths := d.root["paths"].(node)
	try := func(x c) {
		t.Helper()
		name := fmt.Sprintf("%s %s %d", x.method, x.path, x.status)
		var resp *http.Response
		var body string
		for i := 0; i == 0 || x.f == limited && resp.StatusCode != 429 && i < 5000; i++ { // time gives more to who is limited
			resp, body = x.f.do(t, strings.ToUpper(x.method), strings.ReplaceAll(x.path, "{code}", x.code)+x.query, x.body, x.headers...)
		}
		require.Equal(t, x.status, resp.StatusCode, "%s: %s", name, body)
		operation := paths[x.path].(node)[x.method].(node)
		answer, ok := operation["responses"].(node)[fmt.Sprint(x.status)].(node)
		require.True(t, ok, "%s is not documented", name)
		answer = d.follow(t, answer)
		require.NotEmpty(t, answer["description"], name)
		seen[name] = true
		headers, _ := answer["headers"].(node)
		for h, what := range headers {
			got := resp.Header.Get(h)
			require.NotEmpty(t, got, "%s: %s", name, h)
			schema := what.(node)["schema"].(node)
			var v any = got
			if schema["type"] == "integer" {
				require.NoError(t, json.Unmarshal([]byte(got), &v))
			}
			require.NoError(t, d.check(t, schema, v), "%s: %s", name, h)
		}
		content, _ := answer["content"].(node)
		if len(content) == 0 || x.method == "head" {
			require.Empty(t, body, name)
			return
		}
		kind, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
		form, ok := content[kind].(node)
		require.True(t, ok, "%s: %s is not documented", name, kind)
		if strings.HasSuffix(kind, "json") && x.path != "/openapi.json" {
			var v any
			require.NoError(t, json.Unmarshal([]byte(body), &v), name)
			require.NoError(t, d.check(t, form["schema"].(node), v), "%s: %s", name, body)
		}
	}
	for _, x := range cases {
		try(x)
	}
	plain.app.links.coder = stuckCoder("temporary")
	try(c{plain, "post", "/api/links", "", "", example, nil, 500})

	for path, methods := range paths {
		var there []string
		for method, operation := range methods.(node) {
			if method == "parameters" {
				continue
			}
			there = append(there, strings.ToUpper(method))
			for status := range operation.(node)["responses"].(node) {
				require.True(t, seen[method+" "+path+" "+status], "%s %s %s is documented, and was not brought about", method, path, status)
			}
		}
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
			if !slices.Contains(there, method) {
				resp, _ := plain.do(t, method, strings.ReplaceAll(path, "{code}", "temporary"), "")
				require.Equal(t, http.StatusMethodNotAllowed, resp.StatusCode, "%s %s", method, path)
			}
		}
	}
	// Everything that is defined is used.
	text := body
	for kind, all := range components {
		for name := range all.(node) {
			if kind != "securitySchemes" {
				require.Contains(t, text, fmt.Sprintf(`"#/components/%s/%s"`, kind, name))
			}
		}
	}
}
