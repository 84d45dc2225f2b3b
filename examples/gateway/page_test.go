//go:build servers

package main

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

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

// until waits until a JavaScript expression is true. It is asked from here, as the page forbids what
// chromedp.Poll does in it.
func (b *browser) until(t *testing.T, expression string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !eval[bool](t, b, "!!("+expression+")"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it is never true: %s\n%s\n%q", expression, eval[string](t, b, "document.body.innerText"), b.complaints())
		}
	}
}

// cell is the JavaScript for the text of a field of an endpoint in a pool.
func cell(pool, endpoint, field string) string {
	return fmt.Sprintf(`document.querySelector('table[aria-label=%q] tr[data-endpoint=%q] [data-is=%s]')?.textContent`, pool, endpoint, field)
}

// The page shows, in a real browser, what goes on: an endpoint that is killed, one that is drained,
// and the load.
func TestPageInBrowser(t *testing.T) {
	var out lines
	d, err := startDemo(t.Context(), "", &out)
	require.NoError(t, err)
	loading, stopLoad := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		d.load(loading, newTally())
	}()
	stop := sync.OnceFunc(func() {
		stopLoad()
		<-ended
		require.NoError(t, d.stop(context.Background()))
	})
	defer stop()

	b := startBrowser(t)
	b.do(t, chromedp.Navigate(statusURL(d.adminAddr)))
	b.until(t, `document.querySelector("#live").textContent === "live"`)
	for _, p := range d.pools {
		for _, e := range p.Endpoints() {
			b.until(t, cell(p.name, e.ID, "state")+` === "healthy"`)
		}
	}
	for _, r := range d.routes {
		b.until(t, fmt.Sprintf(`[...document.querySelectorAll("#routes th")].some((e) => e.textContent === %q)`, r.config.Name))
	}

	// The numbers change: of requests, and of those in flight.
	inFlight := `[...document.querySelectorAll('[data-is=in_flight]')].map((e) => e.textContent).join()`
	for _, x := range []string{inFlight, cell("shop", "shop-2", "picked")} {
		b.until(t, fmt.Sprintf("%s !== %q", x, eval[string](t, b, x)))
	}
	b.until(t, `[...document.querySelectorAll(".bar span")].some((e) => e.getBoundingClientRect().width > 0)`)

	// A backend is killed, and comes back.
	d.backends["shop-1"].kill()
	b.until(t, cell("shop", "shop-1", "state")+` === "unhealthy"`)
	require.NoError(t, d.backends["shop-1"].start(t.Context()))
	b.until(t, cell("shop", "shop-1", "state")+` === "healthy"`)

	// One is drained by the button, and resumed.
	button := `tr[data-endpoint="prices-2"] button`
	b.do(t, chromedp.Click(button))
	b.until(t, cell("prices", "prices-2", "state")+` === "draining"`)
	b.until(t, cell("prices", "prices-2", "in_flight")+` === "0"`)
	b.do(t, chromedp.Click(button))
	b.until(t, cell("prices", "prices-2", "state")+` === "healthy"`)

	// Dark and light differ, and can be read; on a phone nothing has to be scrolled sideways.
	for _, scheme := range []string{"dark", "light"} {
		_, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
		})
		require.NoError(t, err)
		b.until(t, fmt.Sprintf(`matchMedia("(prefers-color-scheme: %s)").matches`, scheme))
		for _, selector := range []string{"body", ".sum", "[data-state=healthy]", "a"} {
			assert.GreaterOrEqual(t, eval[float64](t, b, fmt.Sprintf(contrast, selector)), 4.5, "%s, %s", scheme, selector)
		}
	}
	for _, width := range []int64{360, 1280} {
		b.do(t, chromedp.EmulateViewport(width, 800))
		b.until(t, `document.documentElement.scrollWidth <= window.innerWidth`)
	}
	assert.Empty(t, b.complaints())
	eval[chromedp.Void](t, b, `console.error("this is seen")`)
	eventually(t, func() bool { return len(b.complaints()) == 1 }, "complaints are seen")

	// When the gateway has gone, the page says so.
	stop()
	b.until(t, `document.querySelector("#live").textContent.startsWith("no connection")`)
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

// What is in a name is text, and nothing that the browser runs.
func TestPageEscapes(t *testing.T) {
	const evil = `<img src=x onerror=alert(1)>"'`
	f := startGateway(t, fmt.Sprintf(`
pools: {p: {endpoints: [{id: %s, url: "http://127.0.0.1:1", zone: "<script>alert(1)</script>"}]}}
routes: [{name: "<b>bold</b>", prefix: /, pool: p}]
`, "'"+strings.ReplaceAll(evil, "'", "''")+"'"))
	b := startBrowser(t)
	b.do(t, chromedp.Navigate(f.adminURL("/")))
	b.until(t, `document.querySelector("[data-is=id]")?.textContent === `+fmt.Sprintf("%q", evil))
	b.until(t, `document.querySelector("[data-is=zone]").textContent === "<script>alert(1)</script>"`)
	b.until(t, `document.querySelector("#routes tbody th").textContent === "<b>bold</b>"`)
	assert.Zero(t, eval[int](t, b, `document.querySelectorAll("main img, main script, main b").length`))
	b.do(t, chromedp.Click("button"))
	b.until(t, `document.querySelector("[data-is=state]").textContent === "draining"`)
	assert.Empty(t, b.complaints())
}
