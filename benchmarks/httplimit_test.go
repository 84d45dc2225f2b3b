package benchmarks

import (
	"context"
	"encoding/json"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/dunglas/httpsfv"
	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/ratelimit"
	"github.com/sysblocks/sysblocks/ratelimit/httplimit"
)

// A said is a limiter that says what it is told to.
type said ratelimit.Result

func (s said) Take(context.Context, string, int64) ratelimit.Result { return ratelimit.Result(s) }
func (s said) Peek(context.Context, string, int64) ratelimit.Result { return ratelimit.Result(s) }

// param returns an integer parameter of an item.
func param(t *testing.T, item httpsfv.Item, name string) (int64, bool) {
	t.Helper()
	v, ok := item.Params.Get(name)
	if !ok {
		return 0, false
	}
	n, isInt := v.(int64)
	require.True(t, isInt, "%s is %T", name, v)
	return n, true
}

// The structured fields of httplimit, read by another implementation of RFC 9651, say what the limits
// and the limiters do; with many names, limits and results, and up to three policies, two of which
// may be those of another middleware further out.
func TestHTTPLimitFields(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d", seed)
	text := func() string {
		b := make([]byte, 1+random.IntN(8))
		for i := range b {
			switch random.IntN(4) {
			case 0:
				b[i] = '"'
			case 1:
				b[i] = '\\'
			default:
				b[i] = byte(' ' + random.IntN('~'-' '+1))
			}
		}
		return string(b)
	}
	// number is from 0 to most, of any order of magnitude.
	number := func(most int64) int64 { return random.Int64N(most) >> random.IntN(60) }
	const most = 999_999_999_999_999
	duration := func() time.Duration {
		switch random.IntN(5) {
		case 0:
			return 0
		case 1:
			return time.Duration(random.IntN(1e6)) * time.Second
		}
		return time.Duration(number(math.MaxInt64))
	}
	for range 5000 {
		var policies []httplimit.Policy
		var results []ratelimit.Result
		names := map[string]bool{}
		for len(policies) < 1+random.IntN(3) {
			name := text()
			if names[name] {
				continue
			}
			names[name] = true
			r := ratelimit.Result{Limit: number(most), Remaining: number(math.MaxInt64), NextToken: duration()}
			if random.IntN(3) == 0 {
				r.RetryAfter = max(r.NextToken, duration())
			}
			if random.IntN(20) == 0 {
				r.RetryAfter = ratelimit.Never
			}
			p := httplimit.Policy{Name: name, Limiter: said(r)}
			p.Limit = ratelimit.Limit{Count: 1 + number(most), Per: max(1, duration()), Burst: number(most)}
			if random.IntN(4) == 0 {
				p.Unit = text()
			}
			policies = append(policies, p)
			results = append(results, r)
		}
		var h http.Handler = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
		for end := len(policies); end > 0; {
			begin := random.IntN(end)
			m, err := httplimit.New(httplimit.Config{Policies: policies[begin:end]})
			require.NoError(t, err)
			h = m.Handler(h)
			end = begin
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))

		stated, err := httpsfv.UnmarshalList(w.Header().Values("RateLimit-Policy"))
		require.NoError(t, err, "%q", w.Header())
		current, err := httpsfv.UnmarshalList(w.Header().Values("RateLimit"))
		require.NoError(t, err, "%q", w.Header())
		require.Len(t, current, len(stated))
		if w.Code == http.StatusOK {
			require.Len(t, stated, len(policies))
		}
		for i := range stated {
			p, r := policies[i], results[i]
			item := stated[i].(httpsfv.Item)
			require.Equal(t, p.Name, item.Value)
			q, ok := param(t, item, "q")
			require.True(t, ok)
			require.Equal(t, p.Limit.Count, q)
			window, ok := param(t, item, "w")
			require.Equal(t, p.Limit.Per%time.Second == 0, ok)
			if ok {
				require.Equal(t, p.Limit.Per, time.Duration(window)*time.Second)
			}
			unit, ok := item.Params.Get("qu")
			require.Equal(t, p.Unit != "", ok)
			if ok {
				require.Equal(t, p.Unit, unit)
			}

			item = current[i].(httpsfv.Item)
			require.Equal(t, p.Name, item.Value)
			left, ok := param(t, item, "r")
			require.True(t, ok)
			require.Equal(t, min(r.Remaining, most), left)
			if until, ok := param(t, item, "t"); ok {
				require.Positive(t, until)
				require.GreaterOrEqual(t, float64(until), r.NextToken.Seconds())
				require.Less(t, float64(until)-1, r.NextToken.Seconds()*(1+1e-15)+1e-9)
			}
			// As text, it is the same again.
			list, err := httpsfv.Marshal(httpsfv.List{stated[i], current[i]})
			require.NoError(t, err)
			again, err := httpsfv.UnmarshalList([]string{list})
			require.NoError(t, err)
			require.Equal(t, httpsfv.List{stated[i], current[i]}, again)
		}

		retry := w.Header().Get("Retry-After")
		if w.Code == http.StatusOK {
			require.Empty(t, retry)
			continue
		}
		require.Equal(t, http.StatusTooManyRequests, w.Code)
		var problem struct {
			Type     string   `json:"type"`
			Status   int      `json:"status"`
			Violated []string `json:"violated-policies"`
		}
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &problem), w.Body)
		require.Equal(t, httplimit.QuotaExceeded, problem.Type)
		require.Equal(t, w.Code, problem.Status)
		// Those that refused are all in the last middleware that was reached.
		never := false
		var violated []string
		longest := time.Duration(0)
		for i := range stated {
			if r := results[i]; r.RetryAfter > 0 {
				violated = append(violated, policies[i].Name)
				never = never || r.RetryAfter == ratelimit.Never
				longest = max(longest, r.RetryAfter)
			}
		}
		require.Equal(t, violated, problem.Violated)
		require.Equal(t, never, retry == "")
		if !never {
			seconds, err := strconv.ParseInt(retry, 10, 64)
			require.NoError(t, err)
			require.GreaterOrEqual(t, float64(seconds), longest.Seconds()*(1-1e-15))
			for i := range stated {
				until, ok := param(t, current[i].(httpsfv.Item), "t")
				if ok && results[i].RetryAfter > 0 {
					require.LessOrEqual(t, until, seconds)
				}
			}
		}
	}
}
