package httplimit

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sysblocks/sysblocks/ratelimit"
)

// The headers, in canonical form.
const (
	headerPolicy     = "Ratelimit-Policy"
	headerLimit      = "Ratelimit"
	headerRetryAfter = "Retry-After"
	legacyLimit      = "X-Ratelimit-Limit"
	legacyRemaining  = "X-Ratelimit-Remaining"
	legacyReset      = "X-Ratelimit-Reset"
)

// maxInteger is the largest Integer of a structured field (RFC 9651, section 3.3.1).
const maxInteger int64 = 999_999_999_999_999

// appendString appends s, which checkString has passed, as a String of a structured field. It is a
// string of JSON, too.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			b = append(b, '\\')
		}
		b = append(b, s[i])
	}
	return append(b, '"')
}

// checkString returns an error if s cannot be a String of a structured field.
func checkString(field, s string) error {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return fmt.Errorf("httplimit: %s must be printable ASCII, got %q", field, s)
		}
	}
	return nil
}

// checkLimit returns an error if l cannot be said in RateLimit-Policy.
func checkLimit(l ratelimit.Limit) error {
	switch {
	case l == ratelimit.Unlimited || l == ratelimit.None:
		return fmt.Errorf("%w: it must have a number and a time, got %v", ratelimit.ErrLimit, l)
	case l.Count < 1 || l.Count > maxInteger:
		return fmt.Errorf("%w: Count must be from 1 to %d, got %d", ratelimit.ErrLimit, maxInteger, l.Count)
	case l.Per <= 0:
		return fmt.Errorf("%w: Per must be more than 0, got %v", ratelimit.ErrLimit, l.Per)
	case l.Burst < 0 || l.Burst > maxInteger:
		return fmt.Errorf("%w: Burst must be from 0 to %d, got %d", ratelimit.ErrLimit, maxInteger, l.Burst)
	}
	return nil
}

// appendPolicy appends an item of RateLimit-Policy.
func appendPolicy(b []byte, name, unit string, l ratelimit.Limit) []byte {
	if len(b) > 0 {
		b = append(b, ", "...)
	}
	b = appendString(b, name)
	b = append(b, ";q="...)
	b = strconv.AppendInt(b, l.Count, 10)
	if unit != "" {
		b = append(b, ";qu="...)
		b = appendString(b, unit)
	}
	if l.Per%time.Second == 0 {
		b = append(b, ";w="...)
		b = strconv.AppendInt(b, int64(l.Per/time.Second), 10)
	}
	return b
}

// appendLimit appends an item of RateLimit; t is left out if it is 0.
func appendLimit(b []byte, name string, remaining, t int64) []byte {
	if len(b) > 0 {
		b = append(b, ", "...)
	}
	b = append(b, name...)
	b = append(b, ";r="...)
	b = strconv.AppendInt(b, min(max(remaining, 0), maxInteger), 10)
	if t > 0 {
		b = append(b, ";t="...)
		b = strconv.AppendInt(b, t, 10)
	}
	return b
}

// seconds returns d in seconds, rounded up; 0 if there is nothing to wait for, or for ever.
func seconds(d time.Duration) int64 {
	if d <= 0 || d == ratelimit.Never {
		return 0
	}
	return int64((d-1)/time.Second) + 1
}

// retryAfter returns the time after which a request that was refused would be allowed, in whole
// seconds, or ratelimit.Never. It is not before any policy that refused has more quota.
func retryAfter(out []Outcome) time.Duration {
	longest := int64(0)
	for i := range out {
		o := &out[i]
		if !o.violated() {
			continue
		}
		if o.Result.RetryAfter == ratelimit.Never {
			return ratelimit.Never
		}
		longest = max(longest, seconds(o.Result.RetryAfter), seconds(o.Result.NextToken))
	}
	return time.Duration(longest) * time.Second
}

// setHeaders says in h what was decided; retry is 0 if the request is allowed.
func (m *Middleware) setHeaders(h http.Header, out []Outcome, retry time.Duration) {
	if m.header == "" {
		return // all policies are in the shadow
	}
	wait := seconds(retry)
	var buf [192]byte
	b := buf[:0]
	for i := range out {
		o := &out[i]
		if o.Shadow || o.Cost == 0 {
			continue
		}
		t := seconds(o.Result.NextToken)
		if wait > 0 && t > wait {
			t = 0 // not what must be waited for
		}
		b = appendLimit(b, m.policies[i].quoted, o.Result.Remaining, t)
	}
	values := make([]string, 2) // in one piece
	values[0] = m.header
	setList(h, headerPolicy, values[0:1:1])
	if len(b) > 0 {
		values[1] = string(b)
		setList(h, headerLimit, values[1:2:2])
	}
	if wait > 0 {
		h.Set(headerRetryAfter, strconv.FormatInt(wait, 10))
	}
	if m.legacy {
		setLegacy(h, out, retry > 0)
	}
}

// setList sets a header that is a list; what is there already, from a middleware further out, stays.
func setList(h http.Header, name string, value []string) {
	if before := h[name]; len(before) > 0 {
		value[0] = strings.Join(before, ", ") + ", " + value[0]
	}
	h[name] = value
}

// setLegacy sets the headers that know one limit only: to the one that refuses longest, or else has
// the fewest tokens. What is there already stays if it is fewer, unless the request is refused.
func setLegacy(h http.Header, out []Outcome, refused bool) {
	var worst *Outcome
	for i := range out {
		o := &out[i]
		if o.Shadow || o.Cost == 0 || refused && !o.violated() {
			continue
		}
		if worst == nil || o.Result.RetryAfter > worst.Result.RetryAfter ||
			o.Result.RetryAfter == worst.Result.RetryAfter && o.Result.Remaining < worst.Result.Remaining {
			worst = o
		}
	}
	if worst == nil {
		return
	}
	r := &worst.Result
	before, err := strconv.ParseInt(h.Get(legacyRemaining), 10, 64)
	if err == nil && before < r.Remaining && !refused {
		return
	}
	h.Set(legacyLimit, strconv.FormatInt(r.Limit, 10))
	h.Set(legacyRemaining, strconv.FormatInt(max(r.Remaining, 0), 10))
	h.Set(legacyReset, strconv.FormatInt(seconds(r.ResetAfter), 10))
}
