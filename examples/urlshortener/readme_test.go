package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestReadme looks whether what the README names is there: files, pictures, flags, and the paths and metrics of the
// service.
func TestReadme(t *testing.T) {
	b, err := os.ReadFile("README.md")
	require.NoError(t, err)
	text := string(b)
	for _, m := range regexp.MustCompile(`(?:\]\(|src=")([^)"]+)`).FindAllStringSubmatch(text, -1) {
		_, err := os.Stat(m[1])
		require.NoError(t, err)
	}
	code, help, _ := command(t, nil, "-help")
	require.Zero(t, code)
	flags := regexp.MustCompile("(?:`|urlshortener |0 )-([a-z][a-z-]*)").FindAllStringSubmatch(text, -1)
	require.Greater(t, len(flags), 10)
	for _, m := range flags {
		if m[1] != "help" {
			require.Contains(t, strings.ReplaceAll(help, "\n", " "), "  -"+m[1]+" ", m[0])
		}
	}

	f := serveApp(t, nil)
	for _, m := range regexp.MustCompile("`(/[a-z./]+)`").FindAllStringSubmatch(text, -1) {
		resp, _ := f.do(t, "GET", m[1], "")
		require.Equal(t, 200, resp.StatusCode, m[1])
	}
	// The commands for curl, as they are written.
	resp, body := f.do(t, "POST", "/api/links", regexp.MustCompile(`-d '([^']*)'`).FindStringSubmatch(text)[1])
	require.Equal(t, 201, resp.StatusCode, body)
	resp, _ = f.do(t, "GET", "/spring-sale", "", "Referer", "https://news.example/")
	require.Equal(t, 302, resp.StatusCode)
	require.Contains(t, text, "Location: "+resp.Header.Get("Location"))
	require.Contains(t, strings.ReplaceAll(text, "localhost:8080", strings.TrimPrefix(f.url, "http://")), body[:strings.Index(body, `"permanent"`)])
}
