//go:build servers

package browser

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"
)

// bound is a time that only a browser that hangs takes.
const bound = time.Minute

// patience is how long a page may take to come to what is waited for. Tests change it.
var patience = 30 * time.Second

// A Browser is a Chromium of our own, with one page, and nothing of what others have done before. It is not safe for
// concurrent use.
type Browser struct {
	ctx context.Context

	mu    sync.Mutex
	wrong []string
}

// Start starts a browser, which ends with the test.
func Start(tb testing.TB) *Browser {
	tb.Helper()
	path, err := exec.LookPath("chromium")
	require.NoError(tb, err, "this test needs chromium")
	ctx, cancel := chromedp.NewExecAllocator(tb.Context(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path),
		chromedp.UserDataDir(tb.TempDir()),
		chromedp.NoSandbox, // which does not work for root
		chromedp.Flag("disable-dev-shm-usage", true),
	)...)
	tb.Cleanup(cancel)
	ctx, _ = chromedp.NewContext(ctx)
	tb.Cleanup(func() { _ = chromedp.Cancel(ctx) }) // waits until it has gone
	require.NoError(tb, chromedp.Do(ctx))
	b := &Browser{ctx: ctx}
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

// Complaints returns what the browser has complained about, in its order: exceptions, errors and warnings that the page
// writes, answers that are failures, and what the page's policy forbids. They come a little after their cause.
func (b *Browser) Complaints() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.wrong)
}

// Do does something that must work.
func (b *Browser) Do(tb testing.TB, actions ...chromedp.Action[chromedp.Void]) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, bound)
	defer cancel()
	require.NoError(tb, chromedp.Do(ctx, actions...))
}

// run returns the value of an action that must work.
func run[T any](tb testing.TB, b *Browser, what string, action chromedp.Action[T]) T {
	tb.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, bound)
	defer cancel()
	v, err := chromedp.Run(ctx, action)
	require.NoError(tb, err, what)
	return v
}

// Eval returns the value of a JavaScript expression.
func Eval[T any](tb testing.TB, b *Browser, expression string) T {
	tb.Helper()
	return run(tb, b, expression, chromedp.Evaluate[T](expression))
}

// Until waits until a JavaScript expression is true, and fails the test if it never is.
func (b *Browser) Until(tb testing.TB, expression string) {
	tb.Helper()
	// It is asked from here, as pages forbid what chromedp.Poll does in them.
	for deadline := time.Now().Add(patience); !Eval[bool](tb, b, "!!("+expression+")"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("it is never true: %s\n%s\n%q", expression, Eval[string](tb, b, "document.body.innerText"), b.Complaints())
		}
	}
}

// Scheme makes the page "dark" or "light", as the settings of a user do.
func (b *Browser) Scheme(tb testing.TB, name string) {
	tb.Helper()
	_, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}},
	})
	require.NoError(tb, err)
	b.Until(tb, fmt.Sprintf(`matchMedia("(prefers-color-scheme: %s)").matches`, name))
}

// Contrast returns that of the text of the first element that a selector finds with what is behind it, by WCAG 2: from 1
// to 21, of which text should have 4.5.
func (b *Browser) Contrast(tb testing.TB, selector string) float64 {
	tb.Helper()
	return Eval[float64](tb, b, fmt.Sprintf(contrast, selector))
}

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

// Resize makes the window so large, and waits until nothing of the page has to be scrolled sideways.
func (b *Browser) Resize(tb testing.TB, width, height int64) {
	tb.Helper()
	b.Do(tb, chromedp.EmulateViewport(width, height))
	b.Until(tb, fmt.Sprintf(`innerWidth === %d && document.documentElement.scrollWidth <= innerWidth`, width))
}

// Origins returns from where the page has loaded something, or has tried to, each once: http://localhost:8080.
func (b *Browser) Origins(tb testing.TB) []string {
	tb.Helper()
	return Eval[[]string](tb, b, `[...new Set(performance.getEntriesByType("resource").map((e) => new URL(e.name).origin))]`)
}

// Tab goes to what is next for somebody without a mouse, and returns what that is: its aria-label, or else its ID or its
// text. That it has the focus must be seen.
func (b *Browser) Tab(tb testing.TB) string {
	tb.Helper()
	b.Do(tb, chromedp.KeyEvent(kb.Tab))
	name := b.Focused(tb)
	require.NotEqual(tb, "none", Eval[string](tb, b, `getComputedStyle(document.activeElement).outlineStyle`), "%s has the focus, which is not seen", name)
	return name
}

// Focused returns what has the focus, as Tab does.
func (b *Browser) Focused(tb testing.TB) string {
	tb.Helper()
	return Eval[string](tb, b, `document.activeElement.getAttribute("aria-label") || document.activeElement.id || document.activeElement.textContent`)
}

// Screenshot writes what is seen to a file, as PNG.
func (b *Browser) Screenshot(tb testing.TB, file string) {
	tb.Helper()
	require.NoError(tb, os.WriteFile(file, run(tb, b, file, chromedp.CaptureScreenshot()), 0o644))
}
