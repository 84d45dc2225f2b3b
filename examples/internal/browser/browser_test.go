//go:build servers

package browser

import (
	"image/png"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/examples/internal/clitest"
)

// page has of everything that is looked for.
const page = `<!doctype html>
<html lang="en"><title>page</title><link rel="icon" href="data:,">
<style>
  body { color: #000; background: #fff }
  @media (prefers-color-scheme: dark) { body { color: #fff; background: #000 } }
  #faint { color: #777; background: #888 }
  #wide { width: 500px; height: 1px }
  #hidden:focus { outline: none }
</style>
<p id="faint">faint</p>
<button aria-label="First">1</button><button id="second">2</button><button>Third</button><button id="hidden">4</button>
<div id="wide"></div>
<img alt="" src="/missing.png">
<script>
  document.querySelector("#second").onclick = () => { document.body.dataset.clicked = "yes" };
  console.log("nothing to complain about");
</script>
`

// serve serves the page, and nothing else.
func serve(t *testing.T) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write([]byte(page))
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL
}

func TestBrowser(t *testing.T) {
	url, other := serve(t), serve(t)
	b := Start(t)
	b.Do(t, chromedp.Navigate(url))
	require.Equal(t, "page", Eval[string](t, b, "document.title"))
	require.Equal(t, 7, Eval[int](t, b, "3 + 4"))
	require.True(t, clitest.Fails(t, func(tb testing.TB) { Eval[int](tb, b, "there.is.none") }))

	// What has the focus, and is seen to have it.
	require.Equal(t, "First", b.Tab(t))
	require.Equal(t, "second", b.Tab(t))
	require.Equal(t, "second", b.Focused(t))
	b.Do(t, chromedp.KeyEvent(" "))
	b.Until(t, `document.body.dataset.clicked === "yes"`)
	require.Equal(t, "Third", b.Tab(t))
	require.True(t, clitest.Fails(t, func(tb testing.TB) { b.Tab(tb) }))
	require.Equal(t, "hidden", b.Focused(t))

	for _, scheme := range []string{"dark", "light"} {
		b.Scheme(t, scheme)
		require.InDelta(t, 21, b.Contrast(t, "body"), 0.01)
		require.InDelta(t, 1.26, b.Contrast(t, "#faint"), 0.01)
		require.Equal(t, scheme == "dark", Eval[bool](t, b, `getComputedStyle(document.body).color === "rgb(255, 255, 255)"`))
	}
	b.Resize(t, 600, 400)
	file := filepath.Join(t.TempDir(), "page.png")
	b.Screenshot(t, file)
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	size, err := png.DecodeConfig(f)
	require.NoError(t, err)
	require.Equal(t, [2]int{600, 400}, [2]int{size.Width, size.Height})

	// Of what is missing there is one complaint; the page may write what is none.
	complain := func(n int, what string) {
		t.Helper()
		require.Eventually(t, func() bool { return len(b.Complaints()) >= n }, patience, 10*time.Millisecond)
		require.Len(t, b.Complaints(), n)
		require.Contains(t, b.Complaints()[n-1], what)
	}
	complain(1, "404")
	Eval[chromedp.Void](t, b, `console.warn("take care")`)
	complain(2, "take care")
	Eval[chromedp.Void](t, b, `void setTimeout(() => { there.is.none })`)
	complain(3, "there is not defined")

	require.Equal(t, []string{url}, b.Origins(t))
	Eval[chromedp.Void](t, b, `fetch("`+other+`/", {mode: "no-cors"}).then(() => { document.body.dataset.fetched = "yes" })`)
	b.Until(t, `document.body.dataset.fetched === "yes"`)
	require.Equal(t, []string{url, other}, b.Origins(t))
}

// What never comes is waited for, and then fails the test, with what is seen instead.
func TestNever(t *testing.T) {
	was := patience
	patience = 0
	defer func() { patience = was }()
	b := Start(t)
	b.Do(t, chromedp.Navigate(serve(t)))
	require.True(t, clitest.Fails(t, func(tb testing.TB) { b.Until(tb, "false") }))
	require.True(t, clitest.Fails(t, func(tb testing.TB) { b.Resize(tb, 300, 400) }), "it is wider than that")
}
