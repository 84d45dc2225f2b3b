package httplimit

import (
	"net/http"
	"strconv"
	"time"

	"github.com/sysblocks/sysblocks/ratelimit"
)

// QuotaExceeded is the type of the problem that a refused request is answered with.
const QuotaExceeded = "https://iana.org/assignments/http-problem-types#quota-exceeded"

// WriteProblem answers a refused request: with the status 429 (Too Many Requests), and as
// application/problem+json (RFC 9457) the type QuotaExceeded, with the names of the policies
// that refused as violated-policies. It is what Config.Refuse does if it is nil, and there for
// those who do something else for some requests only.
//
// The status is the same if d.RetryAfter is ratelimit.Never: no other says that a quota is too small,
// and the type of the problem recommends it. The detail then says that trying again does not
// help, and there is no Retry-After.
func WriteProblem(w http.ResponseWriter, _ *http.Request, d Decision) {
	b := make([]byte, 0, 512)
	b = append(b, `{"type":"`+QuotaExceeded+`","title":"Quota Exceeded","status":429,"detail":"`...)
	if d.RetryAfter == ratelimit.Never {
		b = append(b, "The request costs more than can be had at once: trying again does not help."...)
	} else {
		b = append(b, "Try again after "...)
		b = strconv.AppendInt(b, int64(d.RetryAfter/time.Second), 10)
		b = append(b, " s."...)
	}
	b = append(b, `","violated-policies":[`...)
	for i, name := range d.Violated() {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, name)
	}
	b = append(b, "]}\n"...)
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(http.StatusTooManyRequests)
	w.Write(b) // the client may be gone: nobody else would be told
}
