//go:build servers

package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/examples/internal/browser"
	"github.com/sysblocks/sysblocks/examples/internal/clitest"
)

// cell is the JavaScript for the text of a field of an endpoint in a pool.
func cell(pool, endpoint, field string) string {
	return fmt.Sprintf(`document.querySelector('table[aria-label=%q] tr[data-endpoint=%q] [data-is=%s]')?.textContent`, pool, endpoint, field)
}

// The page shows, in a real browser, what goes on: an endpoint that is killed, one that is drained,
// and the load.
func TestPageInBrowser(t *testing.T) {
	var out clitest.Output
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

	b := browser.Start(t)
	b.Do(t, chromedp.Navigate(statusURL(d.adminAddr)))
	b.Until(t, `document.querySelector("#live").textContent === "live"`)
	for _, p := range d.pools {
		for _, e := range p.Endpoints() {
			b.Until(t, cell(p.name, e.ID, "state")+` === "healthy"`)
		}
	}
	for _, r := range d.routes {
		b.Until(t, fmt.Sprintf(`[...document.querySelectorAll("#routes th")].some((e) => e.textContent === %q)`, r.config.Name))
	}

	// The numbers change: of requests, and of those in flight.
	inFlight := `[...document.querySelectorAll('[data-is=in_flight]')].map((e) => e.textContent).join()`
	for _, x := range []string{inFlight, cell("shop", "shop-2", "picked")} {
		b.Until(t, fmt.Sprintf("%s !== %q", x, browser.Eval[string](t, b, x)))
	}
	b.Until(t, `[...document.querySelectorAll(".bar span")].some((e) => e.getBoundingClientRect().width > 0)`)

	// A backend is killed, and comes back.
	d.backends["shop-1"].kill()
	b.Until(t, cell("shop", "shop-1", "state")+` === "unhealthy"`)
	require.NoError(t, d.backends["shop-1"].start(t.Context()))
	b.Until(t, cell("shop", "shop-1", "state")+` === "healthy"`)

	// One is drained by the button, and resumed.
	button := `tr[data-endpoint="prices-2"] button`
	b.Do(t, chromedp.Click(button))
	b.Until(t, cell("prices", "prices-2", "state")+` === "draining"`)
	b.Until(t, cell("prices", "prices-2", "in_flight")+` === "0"`)
	b.Do(t, chromedp.Click(button))
	b.Until(t, cell("prices", "prices-2", "state")+` === "healthy"`)

	// Dark and light differ, and can be read; on a phone nothing has to be scrolled sideways.
	for _, scheme := range []string{"dark", "light"} {
		b.Scheme(t, scheme)
		for _, selector := range []string{"body", ".sum", "[data-state=healthy]", "a"} {
			assert.GreaterOrEqual(t, b.Contrast(t, selector), 4.5, "%s, %s", scheme, selector)
		}
	}
	for _, width := range []int64{360, 1280} {
		b.Resize(t, width, 800)
	}
	// Nothing is loaded from elsewhere, and nothing is wrong.
	assert.Equal(t, []string{strings.TrimSuffix(statusURL(d.adminAddr), "/")}, b.Origins(t))
	assert.Empty(t, b.Complaints())
	browser.Eval[chromedp.Void](t, b, `console.error("this is seen")`)
	eventually(t, func() bool { return len(b.Complaints()) == 1 }, "complaints are seen")

	// When the gateway has gone, the page says so.
	stop()
	b.Until(t, `document.querySelector("#live").textContent.startsWith("no connection")`)
}

// What is in a name is text, and nothing that the browser runs.
func TestPageEscapes(t *testing.T) {
	const evil = `<img src=x onerror=alert(1)>"'`
	f := startGateway(t, fmt.Sprintf(`
pools: {p: {endpoints: [{id: %s, url: "http://127.0.0.1:1", zone: "<script>alert(1)</script>"}]}}
routes: [{name: "<b>bold</b>", prefix: /, pool: p}]
`, "'"+strings.ReplaceAll(evil, "'", "''")+"'"))
	b := browser.Start(t)
	b.Do(t, chromedp.Navigate(f.adminURL("/")))
	b.Until(t, `document.querySelector("[data-is=id]")?.textContent === `+fmt.Sprintf("%q", evil))
	b.Until(t, `document.querySelector("[data-is=zone]").textContent === "<script>alert(1)</script>"`)
	b.Until(t, `document.querySelector("#routes tbody th").textContent === "<b>bold</b>"`)
	assert.Zero(t, browser.Eval[int](t, b, `document.querySelectorAll("main img, main script, main b").length`))
	b.Do(t, chromedp.Click("button"))
	b.Until(t, `document.querySelector("[data-is=state]").textContent === "draining"`)
	assert.Empty(t, b.Complaints())
}

// Everything can be done without a mouse, and what was done keeps the focus.
func TestPageByKeyboard(t *testing.T) {
	f := startGateway(t, `
pools: {p: {endpoints: [{id: a, url: "http://127.0.0.1:1"}]}}
routes: [{name: r, prefix: /, pool: p}]
`)
	b := browser.Start(t)
	b.Do(t, chromedp.Navigate(f.adminURL("/")))
	b.Until(t, `document.querySelector("button")?.textContent === "drain"`)
	for _, want := range []string{"metrics", "status.json", "drain a"} {
		require.Equal(t, want, b.Tab(t))
	}
	for _, step := range []struct{ key, state, next string }{{kb.Enter, "draining", "resume a"}, {" ", "healthy", "drain a"}} {
		b.Do(t, chromedp.KeyEvent(step.key))
		b.Until(t, fmt.Sprintf(`document.querySelector("[data-is=state]").textContent === %q`, step.state))
		b.Until(t, fmt.Sprintf(`document.activeElement.getAttribute("aria-label") === %q`, step.next))
	}
	assert.Empty(t, b.Complaints())
}
