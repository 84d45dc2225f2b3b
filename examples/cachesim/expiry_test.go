package main

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/internal/trace"
	"github.com/sysblocks/sysblocks/ttlcache"
)

// The simulation does what package ttlcache does, request by request, in all.
func TestExpiringAgreesWithPackage(t *testing.T) {
	keys := trace.Synthetic(20_000, 3)
	for _, size := range []int{1, 10, 100, 1000, 20_000} {
		for _, life := range []int{1, 7, 300, 5000, 1 << 40} {
			want, err := expiring(life)(keys, size, func(int) {})
			require.NoError(t, err)
			got := 0
			synctest.Test(t, func(t *testing.T) {
				const gap = time.Millisecond
				ttl := ttlcache.Forever
				if life < 1<<40 {
					ttl = time.Duration(life) * gap
				}
				c, err := ttlcache.New(ttlcache.Config[uint64, struct{}]{Capacity: size, Shards: 1, TTL: ttl})
				require.NoError(t, err)
				for _, k := range keys {
					if _, ok := c.Get(k); ok {
						got++
					} else {
						require.NoError(t, c.Set(t.Context(), k, struct{}{}))
					}
					time.Sleep(gap)
				}
			})
			require.Equal(t, got, want, "size %d, life %d", size, life)
		}
	}
}

func TestLifetime(t *testing.T) {
	for _, test := range []struct {
		ttl  time.Duration
		rate float64
		want int
	}{
		{time.Second, 1000, 1000},
		{1500 * time.Microsecond, 1000, 2},
		{1, 1, 1},
		{time.Hour, 0.5, 1800},
		{1 << 62, 1e9, 1 << 40},
	} {
		assert.Equal(t, test.want, lifetime(test.ttl, test.rate), test)
	}
	for d, want := range map[time.Duration]string{
		2 * time.Hour: "2 * time.Hour", 90 * time.Second: "90 * time.Second", 1500 * time.Millisecond: "1500 * time.Millisecond", 5: "5 * time.Nanosecond",
	} {
		assert.Equal(t, want, goDuration(d))
	}
}

// Entries that expire at once never hit, and with time enough the ratios are those of LRU.
func TestTTL(t *testing.T) {
	_, never, _ := command(t, "", "-requests=5000", "-plot=false", "-ttl=1ns")
	assert.Contains(t, never, "Entries    expire after 1ns, or 1 requests at 1000 a second")
	assert.Contains(t, never, "Hits       at most 0.00 %")
	assert.Contains(t, never, "No entry lives until its key is asked for again")
	code, out, stderr := command(t, "", "-trace=testdata/access.log", "-field=7", "-ttl=1h", "-rate=10", "-sizes=3,10")
	require.Zero(t, code, stderr)
	assert.Contains(t, out, "36,000 requests at 10 a second")
	assert.Contains(t, out, "TTL 1h0m0s, LRU")
	assert.Contains(t, out, "Take TTL 1h0m0s, LRU")
	assert.Contains(t, out, "TTL: 1 * time.Hour})")
	for _, test := range []struct{ args, want string }{
		{"-ttl=-1s", "-ttl must be above 0"},
		{"-ttl=0s", "-ttl must be above 0"},
		{"-rate=5", "-rate needs a -ttl"},
		{"-ttl=1s -rate=0", "-rate must be above 0"},
		{"-ttl=1s -rate=Inf", "-rate must be above 0 and finite"},
		{"-ttl=1s -shards=4", "-shards is for caches without -ttl"},
	} {
		code, _, stderr := command(t, "", strings.Fields(test.args)...)
		assert.Equal(t, 2, code)
		assert.Contains(t, stderr, test.want)
	}
}
