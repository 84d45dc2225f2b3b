//go:build servers

package main

import (
	"flag"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/examples/internal/browser"
)

var screenshots = flag.String("screenshots", "", "write the pictures of the README to `DIRECTORY`")

// picture writes what is seen to a file, if that is asked for.
func picture(t *testing.T, b *browser.Browser, name string) {
	t.Helper()
	if *screenshots != "" {
		b.Screenshot(t, filepath.Join(*screenshots, name+".png"))
	}
}

// set fills in a field.
func set(selector, value string) chromedp.Action[chromedp.Void] {
	return chromedp.Evaluate[chromedp.Void](fmt.Sprintf("void (document.querySelector(%q).value = %q)", selector, value))
}

// saying is the JavaScript for what the page says.
const saying = `document.querySelector("#made").textContent`

// listed is the JavaScript for the button of a link in the list.
func listed(what, code string) string {
	return fmt.Sprintf(`document.querySelector('[aria-label=%q]')`, what+" "+code)
}

// TestPage shortens links in a real browser, follows one, sees its clicks, and deletes it.
func TestPage(t *testing.T) {
	t.Parallel()
	f := serveApp(t, func(s *settings) { s.private = true }) // what there is to follow is on this machine
	b := browser.Start(t)
	b.Do(t, chromedp.EmulateViewport(900, 1610), chromedp.Navigate(f.url+"/"))
	b.Until(t, `document.querySelector("#links").textContent === "None yet."`)

	b.Do(t, chromedp.SendKeys("#url", "javascript:alert(1)"), chromedp.Click("button[type=submit]"))
	b.Until(t, saying+` === 'url must begin with http:// or https://, got the scheme "javascript"'`)
	require.Equal(t, "bad", browser.Eval[string](t, b, `document.querySelector("#made").className`))
	wrong := b.Complaints() // the browser itself notes the status
	require.Len(t, wrong, 1)
	require.Contains(t, wrong[0], "422")

	for i, alias := range []string{"spring-sale", "handbook", "status-page", ""} {
		target := "https://shop.example/a/path/that/nobody/wants/to/type?campaign=" + fmt.Sprint(i)
		if alias == "handbook" {
			target = f.url + "/healthz"
		}
		b.Do(t, set("#url", target), set("#alias", alias))
		if alias == "spring-sale" {
			b.Do(t, set("#expires", "2592000"), set("#permanent", "1"))
		} else {
			b.Do(t, set("#expires", ""), set("#permanent", ""))
		}
		b.Do(t, chromedp.Click("button[type=submit]"))
		b.Until(t, fmt.Sprintf(`document.querySelectorAll("#links li .short").length === %d`, i+1))
		b.Until(t, fmt.Sprintf(`%s.startsWith("Made: %s/%s")`, saying, f.url, alias))
	}
	require.Contains(t, browser.Eval[string](t, b, `document.querySelector("#links").textContent`), "301, until ")
	require.Len(t, browser.Eval[string](t, b, `new URL(document.querySelector("#short").href).pathname`), 1+codeLength)

	// Of the days before.
	before := clickGroup{Run: "before", Number: 1}
	for day, n := range []int{2, 5, 3, 8, 13, 9, 4, 6, 15, 21, 7} {
		for range n {
			before.Clicks = append(before.Clicks, click{Code: "handbook", Day: dayOf(time.Now()) - 11 + int64(day), Referrer: "news.example"})
		}
	}
	_, err := f.app.store.count(t.Context(), []clickGroup{before}, time.Now())
	require.NoError(t, err)

	// Followed from the page, by whom the page says it is; and from elsewhere.
	for range 3 {
		b.Do(t, chromedp.Click(`#links li:nth-child(3) .short`))
		b.Until(t, `location.pathname === "/healthz" && document.body.textContent.startsWith("ok")`)
		b.Do(t, chromedp.Navigate(f.url+"/"))
		b.Until(t, `document.querySelectorAll("#links li .short").length === 4`)
	}
	for _, from := range []string{"https://news.example/today", "https://news.example/", "", "https://mail.example/"} {
		resp, _ := f.do(t, "GET", "/handbook", "", "Referer", from)
		require.Equal(t, 302, resp.StatusCode)
	}
	b.Do(t, chromedp.Click(`[aria-label="Clicks of handbook"]`))
	b.Until(t, `document.querySelector("#chart-title").textContent === "Clicks of handbook: 100"`) // when they are counted
	require.Equal(t, "chart-title", browser.Eval[string](t, b, `document.activeElement.id`))
	require.Equal(t, "news.example 95, 127.0.0.1 3, (none) 1, mail.example 1",
		browser.Eval[string](t, b, `[...document.querySelectorAll("#referrers tr")].map((r) => [...r.cells].map((c) => c.textContent).join(" ")).join(", ")`))
	require.Contains(t, browser.Eval[string](t, b, `document.querySelector("#chart svg").getAttribute("aria-label")`), time.Now().UTC().Format(time.DateOnly)+": 7")
	require.Equal(t, 12, browser.Eval[int](t, b, `[...document.querySelectorAll("#chart rect")].filter((r) => r.getBoundingClientRect().height > 5).length`))
	_, _ = f.do(t, "GET", "/handbook", "")
	b.Until(t, `document.querySelector("#chart-title").textContent === "Clicks of handbook: 101"`) // by itself

	// The blocks.
	b.Until(t, `[...document.querySelectorAll("#status dt")].length >= 9 && document.querySelectorAll("#shards meter").length === 4`)
	b.Until(t, `[...document.querySelectorAll("#shards meter")].reduce((n, m) => n + m.value, 0) === 4`)
	b.Until(t, `[...document.querySelectorAll("#status dt")].find((e) => e.textContent === "Clicks").nextSibling.textContent === "8"`)

	// Light and dark can be read, and on a phone nothing has to be scrolled sideways.
	b.Do(t, chromedp.Evaluate[chromedp.Void](`scrollTo(0, 0), document.activeElement.blur()`))
	for _, scheme := range []string{"light", "dark"} {
		b.Scheme(t, scheme)
		picture(t, b, scheme)
		for _, selector := range []string{"body", "header p", "#links .short", "#links .long", "button[type=submit]", "button.plain", "#status dt", "td", ".hint"} {
			assert.GreaterOrEqual(t, b.Contrast(t, selector), 4.5, "%s, %s", scheme, selector)
		}
	}
	b.Scheme(t, "light")
	b.Resize(t, 360, 2350)
	b.Until(t, `document.querySelectorAll("#chart rect").length === 7`) // as many as can be read
	picture(t, b, "phone")
	for _, width := range []int64{320, 1280} {
		b.Resize(t, width, 800)
	}

	b.Do(t, chromedp.Click(`[aria-label="Delete handbook"]`))
	b.Until(t, saying+` === "Deleted: handbook" && !`+listed("Delete", "handbook"))
	b.Until(t, `document.querySelector("#chart-section").hidden && document.activeElement.id === "mine"`)
	resp, _ := f.do(t, "GET", "/handbook", "")
	require.Equal(t, 404, resp.StatusCode)

	// Nothing is loaded from elsewhere, and the policy stood in nothing's way.
	require.Equal(t, []string{f.url}, b.Origins(t))
	require.Equal(t, wrong, b.Complaints())
	browser.Eval[chromedp.Void](t, b, `fetch("https://example.com/").catch(() => {})`)
	require.Eventually(t, func() bool {
		return strings.Contains(strings.Join(b.Complaints(), "\n"), "Content Security Policy")
	}, 10*time.Second, 10*time.Millisecond)

	// What cannot be reached is said.
	f.stop()
	b.Until(t, `document.querySelector("#away").textContent === "Not up to date: the service cannot be reached"`)
	b.Do(t, set("#url", "https://example.com/"), chromedp.Click("button[type=submit]"))
	b.Until(t, saying+` === "the service cannot be reached"`)
}

// TestPageByKeyboard does all of it without a mouse: Tab reaches everything, in the order of the page.
func TestPageByKeyboard(t *testing.T) {
	f := serveApp(t, func(s *settings) { require.NoError(t, s.keys.add("ann=0123456789abcdef")) })
	b := browser.Start(t)
	b.Do(t, chromedp.Navigate(f.url+"/"))
	b.Until(t, `document.querySelector("#links").textContent === "With your API key, your links are here."`)
	tab := func(want string) {
		t.Helper()
		require.Equal(t, want, b.Tab(t))
	}
	tab("API")
	tab("url")
	b.Do(t, chromedp.KeyEvent("https://example.com/a"))
	tab("alias")
	b.Do(t, chromedp.KeyEvent("by-hand"))
	tab("expires")
	tab("permanent")
	tab("key")
	b.Do(t, chromedp.KeyEvent("0123456789abcdef"+kb.Enter))
	b.Until(t, saying+`.startsWith("Made: ") && `+listed("Delete", "by-hand"))
	b.Until(t, `document.querySelectorAll("#links li .short").length === 1`)
	tab("Shorten")
	tab("short")
	tab(strings.TrimPrefix(f.url, "http://") + "/by-hand")
	tab("Clicks of by-hand")
	b.Do(t, chromedp.KeyEvent(kb.Enter))
	b.Until(t, `document.querySelector("#chart-title").textContent === "Clicks of by-hand: 0" && document.activeElement.id === "chart-title"`)
	for b.Focused(t) != "Delete by-hand" {
		b.Do(t, chromedp.KeyEvent(kb.Tab, chromedp.KeyModifiers(chromedp.ModifierShift)))
	}
	b.Do(t, chromedp.KeyEvent(" "))
	b.Until(t, saying+` === "Deleted: by-hand" && document.querySelector("#links").textContent === "None yet."`)

	// A list that has several pages.
	for i := range 12 {
		resp, body := f.do(t, "POST", "/api/links", fmt.Sprintf(`{"url":"https://example.com/%d"}`, i), "Authorization", "Bearer 0123456789abcdef")
		require.Equal(t, 201, resp.StatusCode, body)
	}
	b.Do(t, chromedp.Focus("#url"), chromedp.KeyEvent("https://example.com/b"+kb.Enter))
	b.Until(t, `document.querySelectorAll("#links li .short").length === 10 && !document.querySelector("#more").hidden`)
	b.Do(t, chromedp.Focus("#more"), chromedp.KeyEvent(kb.Enter))
	b.Until(t, `document.querySelectorAll("#links li .short").length === 13 && document.querySelector("#more").hidden`)

	// A wrong key, and what is in a target is text.
	b.Do(t, set("#url", "https://example.com/?<img src=x onerror=alert(1)>"), chromedp.Focus("#url"), chromedp.KeyEvent(kb.Enter))
	b.Until(t, saying+` === "url must have no spaces, control characters or backslashes"`)
	b.Do(t, set("#url", `https://example.com/?<img/src=x/onerror=alert(1)>`), chromedp.Focus("#url"), chromedp.KeyEvent(kb.Enter))
	b.Until(t, `document.querySelector("#links .long").textContent.includes("onerror")`)
	require.Zero(t, browser.Eval[int](t, b, `document.querySelectorAll("main img").length`))
	b.Do(t, set("#url", "https://example.com/c"), set("#key", "wrong"), chromedp.Focus("#url"), chromedp.KeyEvent(kb.Enter))
	b.Until(t, saying+` === "an API key is required: Authorization: Bearer KEY"`)
	for _, c := range b.Complaints() {
		require.Regexp(t, "status of 4(01|22) ", c) // what the browser notes of answers
	}
}

// TestPageImpatient clicks twice, has the list fail, and shows what is as long as it can be.
func TestPageImpatient(t *testing.T) {
	f := serveApp(t, nil)
	const longest = "WWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWW"
	f.create(t, `{"url":"https://example.com/`+long(1900)+`","alias":"`+longest+`","expires_in":86400}`)
	resp, _ := f.do(t, "GET", "/"+longest, "", "Referer", "https://"+strings.Repeat("sub.", 60)+"example/")
	require.Equal(t, 302, resp.StatusCode)
	b := browser.Start(t)
	b.Do(t, chromedp.EmulateViewport(360, 800), chromedp.Navigate(f.url+"/"))
	b.Until(t, listed("Clicks of", longest))
	b.Do(t, chromedp.Click(`[aria-label="Clicks of `+longest+`"]`))
	b.Until(t, `document.querySelector("#chart-title").textContent === "Clicks of `+longest+`: 1"`)
	b.Resize(t, 360, 800)

	for i := range 25 {
		f.create(t, fmt.Sprintf(`{"url":"https://example.com/%d"}`, i))
	}
	const codes = `[...document.querySelectorAll("#links li .short")].map((e) => e.textContent)`
	b.Do(t, chromedp.Navigate(f.url+"/"))
	b.Until(t, codes+`.length === 10`)
	b.Do(t, chromedp.Evaluate[chromedp.Void](`void (document.querySelector("#more").click(), document.querySelector("#more").click())`))
	b.Until(t, codes+`.length === 20`)
	b.Do(t, chromedp.Click("#more"))
	b.Until(t, `document.querySelector("#more").hidden`)
	require.Equal(t, 26, browser.Eval[int](t, b, `new Set(`+codes+`).size`))
	require.Equal(t, 26, browser.Eval[int](t, b, codes+`.length`))

	// What fails is seen, though the button is far below; and a key that cannot be one is nothing that cannot be reached.
	b.Do(t, set("#key", "ключ"), chromedp.Evaluate[chromedp.Void](`void document.querySelector("#links li:last-child button").click()`))
	b.Until(t, saying+` === "the API key has characters that no key has"`)
	b.Until(t, `(({top, bottom}) => top >= 0 && bottom <= innerHeight)(document.querySelector("#made").getBoundingClientRect())`)
	b.Do(t, set("#key", ""))

	// What was done is said, also if the list cannot be had then.
	b.Do(t, chromedp.Evaluate[chromedp.Void](`void (window.real = fetch, window.fetch = (path, options) => path.startsWith("/api/links?")
		? Promise.resolve(new Response("{}", {status: 503})) : real(path, options))`))
	b.Do(t, set("#url", "https://example.com/once"),
		chromedp.Evaluate[chromedp.Void](`void (document.querySelector("#form button").click(), document.querySelector("#form button").click())`))
	b.Until(t, saying+`.startsWith("Made: ") && document.querySelector("#url").value === ""`)
	_, body := f.do(t, "GET", "/api/links?limit=100", "")
	require.Equal(t, 1, strings.Count(body, "https://example.com/once"))
	b.Do(t, chromedp.Evaluate[chromedp.Void](`void document.querySelector('[aria-label="Delete `+longest+`"]').click()`))
	b.Until(t, saying+` === "Deleted: `+longest+`" && !`+listed("Delete", longest))
	require.Empty(t, b.Complaints())
}
