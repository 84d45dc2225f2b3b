//go:build servers

package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var screenshots = flag.String("screenshots", "", "write the pictures of the README to `DIRECTORY`")

// A browser is a real one, without a window.
type browser struct {
	ctx context.Context

	mu    sync.Mutex
	wrong []string // what it has complained about
}

func startBrowser(t *testing.T) *browser {
	t.Helper()
	path, err := exec.LookPath("chromium")
	require.NoError(t, err, "this test needs chromium")
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path),
		chromedp.UserDataDir(t.TempDir()),
		chromedp.NoSandbox, // which does not work for root
		chromedp.Flag("disable-dev-shm-usage", true),
	)...)
	t.Cleanup(cancel)
	ctx, _ = chromedp.NewContext(ctx)
	t.Cleanup(func() { _ = chromedp.Cancel(ctx) }) // waits until it has gone
	require.NoError(t, chromedp.Do(ctx))
	b := &browser{ctx: ctx}
	// Exceptions, what the page writes, what was not found, and what its policy forbids.
	messages := chromedp.Console(ctx)
	go func() {
		for m, err := range messages {
			if err != nil {
				return // the browser has gone
			}
			switch m.Type {
			case chromedp.ConsoleException, chromedp.ConsoleError, chromedp.ConsoleWarning:
				b.mu.Lock()
				b.wrong = append(b.wrong, m.String())
				b.mu.Unlock()
			}
		}
	}()
	return b
}

func (b *browser) complaints() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.wrong)
}

// do does something that must work, within a time that only a browser that hangs takes.
func (b *browser) do(t *testing.T, actions ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, time.Minute)
	defer cancel()
	require.NoError(t, chromedp.Do(ctx, actions...))
}

// eval returns the value of a JavaScript expression.
func eval[T any](t *testing.T, b *browser, expression string) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, time.Minute)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	require.NoError(t, err, expression)
	return v
}

// until waits until a JavaScript expression is true. It is asked from here, as the page forbids what chromedp.Poll does
// in it.
func (b *browser) until(t *testing.T, expression string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !eval[bool](t, b, "!!("+expression+")"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it is never true: %s\n%s\n%q", expression, eval[string](t, b, "document.body.innerText"), b.complaints())
		}
	}
}

// scheme makes the page dark or light.
func (b *browser) scheme(t *testing.T, name string) {
	t.Helper()
	_, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}},
	})
	require.NoError(t, err)
	b.until(t, fmt.Sprintf(`matchMedia("(prefers-color-scheme: %s)").matches`, name))
}

// picture writes what is seen to a file, if that is asked for.
func (b *browser) picture(t *testing.T, name string) {
	t.Helper()
	if *screenshots == "" {
		return
	}
	ctx, cancel := context.WithTimeout(b.ctx, time.Minute)
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(*screenshots, name+".png"), png, 0o644))
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
	f := serveApp(t, func(s *settings) { s.private = true }) // what there is to follow is on this machine
	b := startBrowser(t)
	b.do(t, chromedp.EmulateViewport(900, 1610), chromedp.Navigate(f.url+"/"))
	b.until(t, `document.querySelector("#links").textContent === "None yet."`)

	b.do(t, chromedp.SendKeys("#url", "javascript:alert(1)"), chromedp.Click("button[type=submit]"))
	b.until(t, saying+` === 'url must begin with http:// or https://, got the scheme "javascript"'`)
	require.Equal(t, "bad", eval[string](t, b, `document.querySelector("#made").className`))
	wrong := b.complaints() // the browser itself notes the status
	require.Len(t, wrong, 1)
	require.Contains(t, wrong[0], "422")

	for i, alias := range []string{"spring-sale", "handbook", "status-page", ""} {
		target := "https://shop.example/a/path/that/nobody/wants/to/type?campaign=" + fmt.Sprint(i)
		if alias == "handbook" {
			target = f.url + "/healthz"
		}
		b.do(t, set("#url", target), set("#alias", alias))
		if alias == "spring-sale" {
			b.do(t, set("#expires", "2592000"), set("#permanent", "1"))
		} else {
			b.do(t, set("#expires", ""), set("#permanent", ""))
		}
		b.do(t, chromedp.Click("button[type=submit]"))
		b.until(t, fmt.Sprintf(`document.querySelectorAll("#links li .short").length === %d`, i+1))
		b.until(t, fmt.Sprintf(`%s.startsWith("Made: %s/%s")`, saying, f.url, alias))
	}
	require.Contains(t, eval[string](t, b, `document.querySelector("#links").textContent`), "301, until ")
	require.Len(t, eval[string](t, b, `new URL(document.querySelector("#short").href).pathname`), 1+codeLength)

	// Of the days before.
	before := clickGroup{ID: "before"}
	for day, n := range []int{2, 5, 3, 8, 13, 9, 4, 6, 15, 21, 7} {
		for range n {
			before.Clicks = append(before.Clicks, click{Code: "handbook", Day: dayOf(time.Now()) - 11 + int64(day), Referrer: "news.example"})
		}
	}
	require.NoError(t, f.app.store.count(t.Context(), []clickGroup{before}, time.Now()))

	// Followed from the page, by whom the page says it is; and from elsewhere.
	for range 3 {
		b.do(t, chromedp.Click(`#links li:nth-child(3) .short`))
		b.until(t, `location.pathname === "/healthz" && document.body.textContent.startsWith("ok")`)
		b.do(t, chromedp.Navigate(f.url+"/"))
		b.until(t, `document.querySelectorAll("#links li .short").length === 4`)
	}
	for _, from := range []string{"https://news.example/today", "https://news.example/", "", "https://mail.example/"} {
		resp, _ := f.do(t, "GET", "/handbook", "", "Referer", from)
		require.Equal(t, 302, resp.StatusCode)
	}
	b.do(t, chromedp.Click(`[aria-label="Clicks of handbook"]`))
	b.until(t, `document.querySelector("#chart-title").textContent === "Clicks of handbook: 100"`) // when they are counted
	require.Equal(t, "chart-title", eval[string](t, b, `document.activeElement.id`))
	require.Equal(t, "news.example 95, 127.0.0.1 3, (none) 1, mail.example 1",
		eval[string](t, b, `[...document.querySelectorAll("#referrers tr")].map((r) => [...r.cells].map((c) => c.textContent).join(" ")).join(", ")`))
	require.Contains(t, eval[string](t, b, `document.querySelector("#chart svg").getAttribute("aria-label")`), time.Now().UTC().Format(time.DateOnly)+": 7")
	require.Equal(t, 12, eval[int](t, b, `[...document.querySelectorAll("#chart rect")].filter((r) => r.getBoundingClientRect().height > 5).length`))
	_, _ = f.do(t, "GET", "/handbook", "")
	b.until(t, `document.querySelector("#chart-title").textContent === "Clicks of handbook: 101"`) // by itself

	// The blocks.
	b.until(t, `[...document.querySelectorAll("#status dt")].length >= 9 && document.querySelectorAll("#shards meter").length === 4`)
	b.until(t, `[...document.querySelectorAll("#shards meter")].reduce((n, m) => n + m.value, 0) === 4`)
	b.until(t, `[...document.querySelectorAll("#status dt")].find((e) => e.textContent === "Clicks").nextSibling.textContent === "8"`)

	// Light and dark can be read, and on a phone nothing has to be scrolled sideways.
	b.do(t, chromedp.Evaluate[chromedp.Void](`scrollTo(0, 0), document.activeElement.blur()`))
	for _, scheme := range []string{"light", "dark"} {
		b.scheme(t, scheme)
		b.picture(t, scheme)
		for _, selector := range []string{"body", "header p", "#links .short", "#links .long", "button[type=submit]", "button.plain", "#status dt", "td", ".hint"} {
			assert.GreaterOrEqual(t, eval[float64](t, b, fmt.Sprintf(contrast, selector)), 4.5, "%s, %s", scheme, selector)
		}
	}
	b.scheme(t, "light")
	b.do(t, chromedp.EmulateViewport(360, 2350))
	b.until(t, `innerWidth === 360 && document.documentElement.scrollWidth <= innerWidth`)
	b.until(t, `document.querySelectorAll("#chart rect").length === 7`) // as many as can be read
	b.picture(t, "phone")
	for _, width := range []int64{320, 1280} {
		b.do(t, chromedp.EmulateViewport(width, 800))
		b.until(t, `document.documentElement.scrollWidth <= innerWidth`)
	}

	b.do(t, chromedp.Click(`[aria-label="Delete handbook"]`))
	b.until(t, saying+` === "Deleted: handbook" && !`+listed("Delete", "handbook"))
	b.until(t, `document.querySelector("#chart-section").hidden && document.activeElement.id === "mine"`)
	resp, _ := f.do(t, "GET", "/handbook", "")
	require.Equal(t, 404, resp.StatusCode)

	// Nothing is loaded from elsewhere, and the policy stood in nothing's way.
	require.Equal(t, f.url, eval[string](t, b, `[...new Set(performance.getEntriesByType("resource").map((e) => new URL(e.name).origin))].join()`))
	require.Equal(t, wrong, b.complaints())
	eval[chromedp.Void](t, b, `fetch("https://example.com/").catch(() => {})`)
	require.Eventually(t, func() bool {
		return strings.Contains(strings.Join(b.complaints(), "\n"), "Content Security Policy")
	}, 10*time.Second, 10*time.Millisecond)

	// What cannot be reached is said.
	f.stop()
	b.until(t, `document.querySelector("#away").textContent === "Not up to date: the service cannot be reached"`)
	b.do(t, set("#url", "https://example.com/"), chromedp.Click("button[type=submit]"))
	b.until(t, saying+` === "the service cannot be reached"`)
}

// TestPageByKeyboard does all of it without a mouse: Tab reaches everything, in the order of the page.
func TestPageByKeyboard(t *testing.T) {
	f := serveApp(t, func(s *settings) { require.NoError(t, s.keys.add("ann=0123456789abcdef")) })
	b := startBrowser(t)
	b.do(t, chromedp.Navigate(f.url+"/"))
	b.until(t, `document.querySelector("#links").textContent === "With your API key, your links are here."`)
	on := func() string {
		return eval[string](t, b, `(document.activeElement.getAttribute("aria-label") || document.activeElement.id || document.activeElement.textContent)`)
	}
	tab := func(want string) {
		t.Helper()
		b.do(t, chromedp.KeyEvent(kb.Tab))
		require.Equal(t, want, on())
		require.NotEqual(t, "none", eval[string](t, b, `getComputedStyle(document.activeElement).outlineStyle`), want) // is seen
	}
	tab("API")
	tab("url")
	b.do(t, chromedp.KeyEvent("https://example.com/a"))
	tab("alias")
	b.do(t, chromedp.KeyEvent("by-hand"))
	tab("expires")
	tab("permanent")
	tab("key")
	b.do(t, chromedp.KeyEvent("0123456789abcdef"+kb.Enter))
	b.until(t, saying+`.startsWith("Made: ") && `+listed("Delete", "by-hand"))
	b.until(t, `document.querySelectorAll("#links li .short").length === 1`)
	tab("Shorten")
	tab("short")
	tab(strings.TrimPrefix(f.url, "http://") + "/by-hand")
	tab("Clicks of by-hand")
	b.do(t, chromedp.KeyEvent(kb.Enter))
	b.until(t, `document.querySelector("#chart-title").textContent === "Clicks of by-hand: 0" && document.activeElement.id === "chart-title"`)
	for on() != "Delete by-hand" {
		b.do(t, chromedp.KeyEvent(kb.Tab, chromedp.KeyModifiers(chromedp.ModifierShift)))
	}
	b.do(t, chromedp.KeyEvent(" "))
	b.until(t, saying+` === "Deleted: by-hand" && document.querySelector("#links").textContent === "None yet."`)

	// A list that has several pages.
	for i := range 12 {
		resp, body := f.do(t, "POST", "/api/links", fmt.Sprintf(`{"url":"https://example.com/%d"}`, i), "Authorization", "Bearer 0123456789abcdef")
		require.Equal(t, 201, resp.StatusCode, body)
	}
	b.do(t, chromedp.Focus("#url"), chromedp.KeyEvent("https://example.com/b"+kb.Enter))
	b.until(t, `document.querySelectorAll("#links li .short").length === 10 && !document.querySelector("#more").hidden`)
	b.do(t, chromedp.Focus("#more"), chromedp.KeyEvent(kb.Enter))
	b.until(t, `document.querySelectorAll("#links li .short").length === 13 && document.querySelector("#more").hidden`)

	// A wrong key, and what is in a target is text.
	b.do(t, set("#url", "https://example.com/?<img src=x onerror=alert(1)>"), chromedp.Focus("#url"), chromedp.KeyEvent(kb.Enter))
	b.until(t, saying+` === "url must have no spaces, control characters or backslashes"`)
	b.do(t, set("#url", `https://example.com/?<img/src=x/onerror=alert(1)>`), chromedp.Focus("#url"), chromedp.KeyEvent(kb.Enter))
	b.until(t, `document.querySelector("#links .long").textContent.includes("onerror")`)
	require.Zero(t, eval[int](t, b, `document.querySelectorAll("main img").length`))
	b.do(t, set("#url", "https://example.com/c"), set("#key", "wrong"), chromedp.Focus("#url"), chromedp.KeyEvent(kb.Enter))
	b.until(t, saying+` === "an API key is required: Authorization: Bearer KEY"`)
	for _, c := range b.complaints() {
		require.Regexp(t, "status of 4(01|22) ", c) // what the browser notes of answers
	}
}

// contrast is that of an element's text with what is behind it, by WCAG 2.
const contrast = `(() => {
  const luminance = (css) => {
    const [r, g, b] = css.match(/[\d.]+/g).map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const element = document.querySelector(%q);
  let behind = element;
  while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
  const [a, b] = [luminance(getComputedStyle(element).color), luminance(getComputedStyle(behind).backgroundColor)];
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
})()`
