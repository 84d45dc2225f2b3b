// Package browser drives a real browser, without a window, in the tests of the pages that examples have; those tests have
// the build tag "servers", as what is here.
//
//	b := browser.Start(t)
//	b.Do(t, chromedp.Navigate(url), chromedp.Click("button"))
//	b.Until(t, `document.querySelector("#state").textContent === "draining"`)
//	require.Empty(t, b.Complaints())
package browser
