package dist

import (
	"crypto/sha256"
	"encoding/hex"
	"hash/maphash"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/sysblocks/sysblocks/ratelimit"
)

// An instant is a time by two clocks, in nanoseconds: since the Limiter was made, and since 1970. The
// first stands still while the machine sleeps; the second can be set.
type instant struct{ mono, wall int64 }

// since returns the time after u, by the clock for which it is longer: so nothing is put off for longer
// than was said, neither by sleep nor by a clock that goes back.
func (t instant) since(u instant) int64 { return max(t.mono-u.mono, t.wall-u.wall) }

// An entry is what is known of a key here.
type entry struct {
	// tats are the theoretical arrival times of this process's share, by the monotonic clock.
	tats []int64
	// ahead is what the backend has said, in microseconds, to what was sent at sent. None, if it has
	// refused nothing.
	ahead []int64
	sent  instant
}

// until returns when there is nothing to know any more.
func (e *entry) until() int64 {
	t := int64(math.MinInt64)
	if len(e.ahead) > 0 {
		t = e.sent.mono + slices.Max(e.ahead)*1000
	}
	for _, tat := range e.tats {
		t = max(t, tat)
	}
	return t
}

// A book has entries for at most so many keys.
//
// Invariant: the tats of a key that is not in it are not after floor. So to forget a key never lets
// more pass: if it comes again, it begins at floor. Whoever is done soonest is forgotten first, of
// a few; with fewer keys in use than fit, nobody is, and floor is in the past.
type book[K comparable] struct {
	entries map[K]*entry
	most    int
	floor   []int64
}

// looks is how many entries are looked at, from a random one on, to make room for another.
const looks = 8

// add makes an entry for k, which has none, with so many tats; k is kept.
func (b *book[K]) add(k K, now int64, tats int) *entry {
	var victim K
	least, looked := int64(math.MaxInt64), 0
	for k, e := range b.entries {
		if t := e.until(); t <= now {
			delete(b.entries, k)
		} else if t < least {
			least, victim = t, k
		}
		if looked++; looked == looks {
			break
		}
	}
	if len(b.entries) >= b.most {
		b.floor = raise(b.floor, b.entries[victim].tats)
		delete(b.entries, victim)
	}
	if b.entries == nil {
		b.entries = make(map[K]*entry)
	}
	e := &entry{}
	if tats > 0 {
		e.tats = make([]int64, tats)
		copy(e.tats, b.floor)
	}
	b.entries[k] = e
	return e
}

// raise returns floor so that no tat is after it.
func raise(floor, tats []int64) []int64 {
	for i, tat := range tats {
		if i == len(floor) {
			floor = append(floor, tat)
		}
		floor[i] = max(floor[i], tat)
	}
	return floor
}

// local is what a Limiter keeps of keys: denials of the backend, and this process's shares.
//
// Why a denial can be told without asking: the backend decided at a moment m after the request was
// sent, and found that a limit would be full at ahead after m. What others take since only makes
// that later. So if ahead - (now - sent) + n·Interval is more than Interval·Burst, then so it is
// with m in place of sent, and the backend would refuse; and nobody is refused for longer than he
// was told. It counts from when the request was sent, since what is known of m is only that it is
// not earlier. This supposes clocks of one speed, and a backend that forgets nothing: after it has
// lost its state, a denial goes on for what is left of its RetryAfter.
type local struct {
	cells  []cell // the limits
	shares []cell // this process's of each; none if there are no shares
	seed   maphash.Seed
	parts  []part
}

// A part has a cache line of its own, or those who lock one would slow down those who lock its
// neighbours.
type part struct {
	mu     sync.Mutex
	book   book[string]
	denied uint64
	forgot int64 // when a key was last forgotten: what was sent before is not learnt, of any key
	_      [64]byte
}

// few is up to how many keys there is one part: with more parts, some would be full long before the
// others.
const few, parts = 4096, 16

func newLocal(cells, shares []cell, keys int) *local {
	l := &local{cells: cells, shares: shares, seed: maphash.MakeSeed(), parts: make([]part, 1)}
	if keys > few {
		l.parts = make([]part, parts)
	}
	for i := range l.parts {
		l.parts[i].book.most = keys / len(l.parts)
		l.parts[i].forgot = math.MinInt64
	}
	return l
}

// maxKey is the length above which keys are hashed, so that they do not take more memory than MaxKeys says.
const maxKey = 64

// short returns key, or a name for it if it is long, which is too long to be that of another.
func short(key string) string {
	if len(key) <= maxKey {
		return key
	}
	sum := sha256.Sum256([]byte(key))
	return "#" + hex.EncodeToString(sum[:])
}

func (l *local) part(key string) *part {
	return &l.parts[maphash.String(l.seed, key)%uint64(len(l.parts))]
}

// entry returns that of a key, and makes one if there is none. The part's lock is held.
func (l *local) entry(p *part, key string, now int64) *entry {
	if e := p.book.entries[key]; e != nil {
		return e
	}
	return p.book.add(strings.Clone(key), now, len(l.shares))
}

// denial returns the Result of a Take that the backend is known to refuse.
func (l *local) denial(key string, n int64, now instant) (ratelimit.Result, bool) {
	key = short(key)
	p := l.part(key)
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.book.entries[key]
	if e == nil || len(e.ahead) == 0 {
		return ratelimit.Result{}, false
	}
	since := now.since(e.sent)
	var ahead [maxLimits]int64
	fits := true
	for i, c := range l.cells {
		ahead[i] = max(0, e.ahead[i]*1000-max(0, since))
		fits = fits && c.fits(n, ahead[i])
	}
	if fits {
		return ratelimit.Result{}, false
	}
	p.denied++
	return result(l.cells, n, ahead[:len(l.cells)], false), true
}

// learn notes what the backend said to what was sent then, if nothing newer is known. Of a key of
// which no denial is known, it notes denials only: most keys have none, and need no memory.
func (l *local) learn(key string, sent instant, ahead []int64, allowed bool, now int64) {
	key = short(key)
	p := l.part(key)
	p.mu.Lock()
	defer p.mu.Unlock()
	if sent.mono <= p.forgot {
		return
	}
	e := p.book.entries[key]
	if e == nil && !allowed {
		e = l.entry(p, key, now)
	}
	if e == nil || len(e.ahead) == 0 && allowed || len(e.ahead) > 0 && e.sent.mono > sent.mono {
		return
	}
	e.sent, e.ahead = sent, append(e.ahead[:0], ahead...)
}

// charge takes from the share what the backend has allowed, as far as it goes.
func (l *local) charge(key string, n, now int64) {
	if len(l.shares) == 0 {
		return
	}
	key = short(key)
	p := l.part(key)
	p.mu.Lock()
	defer p.mu.Unlock()
	e := l.entry(p, key, now)
	for i, c := range l.shares {
		// The answer may have taken its time: what the share has been used for since stays.
		e.tats[i] = max(e.tats[i], min(max(e.tats[i], now)+min(n, c.burst)*c.inc, now+c.tau))
	}
}

// take takes from the share, or only looks.
func (l *local) take(key string, n, now int64, peek bool) ratelimit.Result {
	key = short(key)
	p := l.part(key)
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.book.entries[key]
	if e == nil && !peek {
		e = l.entry(p, key, now)
	}
	var tats []int64
	if e != nil {
		tats = e.tats
	} else {
		tats = p.book.floor
	}
	var ahead [maxLimits]int64
	fits := true
	for i, c := range l.shares {
		if i < len(tats) {
			ahead[i] = max(0, tats[i]-now)
		}
		fits = fits && c.fits(n, ahead[i])
	}
	if fits && !peek {
		for i, c := range l.shares {
			ahead[i] += n * c.inc
			e.tats[i] = now + ahead[i]
		}
	}
	return result(l.shares, n, ahead[:len(l.shares)], fits)
}

// forget forgets a key, and what is learnt of it by answers to what was sent before now.
func (l *local) forget(key string, now int64) {
	key = short(key)
	p := l.part(key)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forgot = max(p.forgot, now) // others may have read the clock before, and come after
	delete(p.book.entries, key)
}

// denials returns how many there were, and how many keys are known.
func (l *local) denials() (n uint64, keys int) {
	for i := range l.parts {
		p := &l.parts[i]
		p.mu.Lock()
		n += p.denied
		keys += len(p.book.entries)
		p.mu.Unlock()
	}
	return n, keys
}
