package benchmarks

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	hashicorp "github.com/hashicorp/golang-lru/v2"
	"github.com/stretchr/testify/require"
	xrate "golang.org/x/time/rate"

	"github.com/sysblocks/sysblocks/ratelimit"
)

// maxKeyed is the room for keys of those that bound it.
const maxKeyed = 1 << 20

// A keyedImpl makes a limiter with a quota for each key, and returns a function that takes one token of
// the key with number i. Those that have integers as keys use the number.
type keyedImpl struct {
	name string
	make func(tb testing.TB, q quota) func(i int, key string) bool
}

func (q quota) limit() ratelimit.Limit {
	return ratelimit.Limit{Count: q.count, Per: q.per, Burst: q.burst}
}

func (q quota) xtime() *xrate.Limiter {
	return xrate.NewLimiter(xrate.Limit(float64(q.count)/q.per.Seconds()), int(q.burst))
}

func byKey(take func(key string) bool) func(int, string) bool {
	return func(_ int, key string) bool { return take(key) }
}

// keyedImpls are ours in three ways, those of others, and what is written by hand with x/time. sethvargo, ulule and
// sync.Map have no bound for the number of keys.
var keyedImpls = []keyedImpl{
	{"sysblocks", func(tb testing.TB, q quota) func(int, string) bool {
		x := must(ratelimit.NewKeyed[string](q.limit(), ratelimit.KeyedConfig{MaxKeys: maxKeyed}))(tb)
		return func(_ int, key string) bool { return x.Take(key, 1).OK() }
	}},
	{"ours-hashed", func(tb testing.TB, q quota) func(int, string) bool {
		x := must(ratelimit.NewKeyed[string](q.limit(), ratelimit.KeyedConfig{MaxKeys: maxKeyed, HashKeys: true}))(tb)
		return func(_ int, key string) bool { return x.Take(key, 1).OK() }
	}},
	{"ours-uint64", func(tb testing.TB, q quota) func(int, string) bool {
		x := must(ratelimit.NewKeyed[uint64](q.limit(), ratelimit.KeyedConfig{MaxKeys: maxKeyed}))(tb)
		return func(i int, _ string) bool { return x.Take(uint64(i), 1).OK() }
	}},
	{"sethvargo", func(tb testing.TB, q quota) func(int, string) bool { return byKey(sethvargoTake(tb, q, 0)) }},
	{"throttled", func(tb testing.TB, q quota) func(int, string) bool { return byKey(throttledTake(tb, q, maxKeyed)) }},
	{"ulule", func(_ testing.TB, q quota) func(int, string) bool { return byKey(ululeTake(q)) }},
	{"syncmap-xtime", func(_ testing.TB, q quota) func(int, string) bool {
		var m sync.Map
		return func(_ int, key string) bool {
			x, ok := m.Load(key)
			if !ok {
				x, _ = m.LoadOrStore(key, q.xtime())
			}
			return x.(*xrate.Limiter).Allow()
		}
	}},
	{"lru-xtime", func(tb testing.TB, q quota) func(int, string) bool {
		c := must(hashicorp.New[string, *xrate.Limiter](maxKeyed))(tb)
		return func(_ int, key string) bool {
			x, ok := c.Get(key)
			if !ok {
				x = q.xtime()
				if before, found, _ := c.PeekOrAdd(key, x); found {
					x = before
				}
			}
			return x.Allow()
		}
	}},
}

// quotas are a limit that no loop reaches, and one that is used up by one token, which all keys have taken before the
// clock starts. Windows and buckets keep to them alike.
var quotas = map[string]quota{
	"allowed": {1e9, 1e9, 1000 * time.Second},
	"refused": {1, 1, 24 * time.Hour},
}

// keyedKeys is how many keys there are, where there are many.
func keyedKeys() int {
	if testing.Short() {
		return 1 << 10
	}
	return 1_000_000
}

// numberedKeys are keys that have been made, for whoever needs the first n of them.
var numberedKeys []string

func firstKeys(n int) []string {
	for from := len(numberedKeys); from < n; from = len(numberedKeys) {
		batch := make([]uint32, 1<<16)
		for i := range batch {
			batch[i] = uint32(from + i)
		}
		numberedKeys = append(numberedKeys, numbered(batch)...)
	}
	return numberedKeys[:n]
}

// numbered returns the keys with these numbers, one behind the other in memory. Who goes through them has the next one in
// the CPU's cache, as a server has what it has just read from a connection.
func numbered(numbers []uint32) []string {
	const width = 16
	var all strings.Builder
	all.Grow(len(numbers) * width)
	for _, n := range numbers {
		fmt.Fprintf(&all, "user:%011d", n)
	}
	keys := make([]string, len(numbers))
	for i := range keys {
		keys[i] = all.String()[i*width : (i+1)*width]
	}
	return keys
}

// BenchmarkKeyed takes a token of one key, of a million keys in random order (of a thousand with -short), which are
// there before the clock starts; or of a new key each time, when there are as many as there is room for, which all
// owe a token. Beside the time stands what share was allowed of what was asked for, and of what the keys
// may have had since they were there.
func BenchmarkKeyed(b *testing.B) {
	compareKeyed(b, func(b *testing.B, take func(i int) bool) int64 {
		allowed := int64(0)
		for i := range b.N {
			if take(i) {
				allowed++
			}
		}
		return allowed
	})
}

// BenchmarkKeyedParallel does so from all CPUs, with 32 goroutines each.
func BenchmarkKeyedParallel(b *testing.B) {
	compareKeyed(b, func(b *testing.B, take func(i int) bool) int64 {
		// Each goroutine goes through a range of its own: by then, no key of the flood is asked for twice.
		var allowed, next atomic.Int64
		const batch = 64
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			mine, at, left := int64(0), 0, 0
			for pb.Next() {
				if left == 0 {
					at, left = int(next.Add(batch))-batch, batch
				}
				if take(at) {
					mine++
				}
				at++
				left--
			}
			allowed.Add(mine)
		})
		return allowed.Load()
	})
}

func compareKeyed(b *testing.B, run func(b *testing.B, take func(i int) bool) int64) {
	const draws = 1 << 20
	many, room := keyedKeys(), maxKeyed
	if testing.Short() {
		room = many
	}
	rng := rand.New(rand.NewPCG(1, 1))
	order := make([]uint32, draws)
	for i := range order {
		order[i] = uint32(rng.IntN(many))
	}
	drawn := numbered(order)
	for _, c := range []struct {
		name, quota string
		before      int // keys that are there when the clock starts
		fresh       bool
	}{
		{"keys=1/answer=allowed", "allowed", 1, false},
		{"keys=1/answer=refused", "refused", 1, false},
		{"keys=1M/answer=allowed", "allowed", many, false},
		{"keys=1M/answer=refused", "refused", many, false},
		{"keys=new/answer=allowed", "refused", room, true},
	} {
		q := quotas[c.quota]
		for round := range *rounds {
			for i := range keyedImpls {
				impl := keyedImpls[(i+round)%len(keyedImpls)]
				b.Run(fmt.Sprintf("%s/impl=%s/round=%d", c.name, impl.name, round+1), func(outer *testing.B) {
					// What is there before is made once for all that go test tries, and then it is nobody else's heap.
					var start time.Time
					var take func(i int, key string) bool
					outer.Run("op=Take", func(b *testing.B) {
						b.ReportAllocs()
						if c.fresh || take == nil {
							start = time.Now()
							take = impl.make(outer, q)
							for i, k := range firstKeys(c.before) {
								if !take(i, strings.Clone(k)) {
									b.Fatal("the first one is refused")
								}
							}
						}
						take := take
						var next func(i int) bool
						switch {
						case c.fresh:
							const more = 64 * 1024 // for batches that are begun, and not used up
							keys := firstKeys(c.before + b.N + more)
							next = func(i int) bool { return take(c.before+i, keys[c.before+i]) }
						case c.before == 1:
							key := firstKeys(1)[0]
							next = func(int) bool { return take(0, key) }
						default:
							next = func(i int) bool { return take(int(order[i%draws]), drawn[i%draws]) }
						}
						runtime.GC()
						b.ResetTimer()
						allowed := run(b, next)
						b.StopTimer()
						b.ReportMetric(float64(allowed)/float64(b.N), "allowed/asked")
						keys := c.before
						if c.fresh {
							keys = b.N
						} else {
							allowed += int64(keys) // before the clock started
						}
						each := math.Floor(time.Since(start).Seconds()*float64(q.count)/q.per.Seconds()) + float64(q.burst)
						b.ReportMetric(float64(allowed)/(each*float64(keys)), "allowed/allowance")
					})
				})
			}
		}
	}
}

// BenchmarkKeyedMemory takes one token of each of a million keys, and reports by how much the heap has grown for each.
// The keys are copies, which count for those who keep them. Either all owe their token for a day, or each has it
// again a microsecond later, so that nothing needs to be known of it any more.
func BenchmarkKeyedMemory(b *testing.B) {
	keys := firstKeys(keyedKeys())
	for _, owing := range []struct{ name, quota string }{{"day", "refused"}, {"microsecond", "allowed"}} {
		for _, impl := range keyedImpls {
			b.Run(fmt.Sprintf("owing=%s/impl=%s", owing.name, impl.name), func(b *testing.B) {
				var perKey float64
				for range b.N {
					before := heap()
					take := impl.make(b, quotas[owing.quota])
					for i, k := range keys {
						take(i, strings.Clone(k))
					}
					perKey = (float64(heap()) - float64(before)) / float64(len(keys))
					runtime.KeepAlive(take)
				}
				b.ReportMetric(perKey, "B/key")
			})
		}
	}
}

// TestKeyedImpls checks that what the benchmarks call has a limit for each key.
func TestKeyedImpls(t *testing.T) {
	keys := firstKeys(1000)
	for _, impl := range keyedImpls {
		t.Run(impl.name, func(t *testing.T) {
			take := impl.make(t, quotas["refused"])
			for i, k := range keys {
				require.True(t, take(i, k))
			}
			for i, k := range keys {
				require.False(t, take(i, strings.Clone(k)))
			}
			take = impl.make(t, quotas["allowed"])
			for range 1000 {
				require.True(t, take(0, keys[0]))
			}
		})
	}
}
