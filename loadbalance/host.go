package loadbalance

import (
	"math"
	"slices"
	"sync/atomic"
	"time"
)

// A host is the state of one endpoint, which is found by its ID and kept when the set of endpoints
// changes, and as long as it has requests in flight.
//
// What every request writes is in the first cache line, apart from other hosts' and from what is
// read.
type host struct {
	// word is closed | in flight << 1 | picked << 25. One addition counts a request in flight, counts it as
	// picked, and tells whether the host was closed before: taken out of every list, so that Remove
	// and Drain can say that nobody gets it any more. See enter.
	word atomic.Uint64
	// ewma is the float32 latency in nanoseconds << 32 | when it was that, in units of 2^20 ns. The
	// sign of the number says that the last request failed. 0: not known.
	ewma   atomic.Uint64
	streak atomic.Uint32 // errors one after the other
	_      [44]byte

	core *core
	id   string

	bad [numOutcomes]atomic.Uint64 // requests that ended so; bad[OK] is not counted

	// What ended since the last evaluation of success rates.
	succeeded, failed atomic.Uint32

	// Below is guarded by the mutex of the Pool.

	member   bool // of the set of endpoints
	draining bool
	down     bool // by active checks
	checked  bool // at least once
	results  int  // successes one after the other, or failures if negative
	lastErr  error

	ejected   bool
	ejectedTo int64 // when it ends
	ejections int   // how often, less one for each interval without
	ejectedIn bool  // in this interval

	ramping   bool
	rampSince int64

	total uint64 // picked
	seen  uint64 // what word had then

	drain  *drain      // what calls of Drain wait for; nil if none does
	waited atomic.Bool // there is a drain; read without the mutex
}

// A drain is what calls of Drain wait for.
type drain struct {
	over chan struct{} // closed when nothing is in flight, or there is err
	err  error
}

const (
	closed      = 1
	one         = 1 << 1
	flightBits  = 24
	flightMask  = 1<<flightBits - 1
	picked      = 1 << (1 + flightBits)
	pickedBits  = 64 - 1 - flightBits
	pickedMask  = 1<<pickedBits - 1
	ewmaShift   = 20 // of times, to units of ewma
	failing     = 1 << 63
	floorNanos  = 1
	ceilNanos   = 1 << 50 // 13 days
	capFactor   = 64      // what failures raise the cost to, in medians
	medianHosts = 64      // how many hosts are looked at for the median
)

func flight(word uint64) int64 { return int64(word >> 1 & flightMask) }

func (h *host) inFlight() int64 { return flight(h.word.Load()) }

// enter counts a request, if the host is not closed.
//
// A host is closed after the lists without it are published. So if this addition comes before closing,
// who closes waits for the request; if it comes after, a list that does not have the
// host can be had.
func (h *host) enter() bool {
	if h.word.Add(picked+one)&closed == 0 {
		return true
	}
	h.leave(picked + one)
	return false
}

// leave undoes what enter has added, or only that it is in flight.
func (h *host) leave(what uint64) {
	word := h.word.Add(-what)
	for flight(word) > flightMask/2 { // a copy of a Lease has ended what ended before
		if h.word.CompareAndSwap(word, word+one) {
			word += one
			if h.core.counted {
				h.core.total.Add(1)
			}
			break
		}
		word = h.word.Load() // who enters, or ends twice, too, may have mended it
	}
	if flight(word) == 0 && word&closed != 0 && h.waited.Load() {
		h.core.emptied(h)
	}
}

// done ends a request that was picked at start; 0: its latency is known already.
func (h *host) done(o Outcome, start int64) {
	c := h.core
	if c.timed && start != 0 {
		h.observe(o, start, c.now())
	}
	if c.counted {
		c.total.Add(-1)
	}
	if o == OK && !c.outlier {
		h.leave(one)
		return
	}
	kind := o.kind()
	if kind != OK {
		h.bad[kind].Add(1)
	}
	h.leave(one) // before anybody is called, who may wait for it
	if c.outlier {
		h.judge(kind)
	}
}

// judge ejects the host if it has failed too often.
func (h *host) judge(kind Outcome) {
	c := h.core
	switch {
	case kind == Canceled || kind == Overload:
		// Neither says anything about the endpoint: to eject who is overloaded, adds to the load of others.
	case kind.failed():
		if c.rates {
			h.failed.Add(1)
		}
		if n := h.streak.Add(1); c.consecutive > 0 && n >= c.consecutive {
			c.tooMany(h)
		}
	default:
		if c.rates {
			h.succeeded.Add(1)
		}
		if h.streak.Load() != 0 {
			h.streak.Store(0)
		}
	}
}

// A core is what hosts and Pickers need of a Pool; it has no type parameter.
type core struct {
	start  time.Time
	seed   atomic.Uint64
	seeded bool

	zone        string // of the callers
	timed       bool   // latency is measured
	counted     bool   // total is
	outlier     bool
	rates       bool
	consecutive uint32
	perHalfLife float64 // of latencies: units of ewma

	emptied func(*host)
	tooMany func(*host)

	_        [64]byte
	total    atomic.Int64 // requests in flight
	_        [56]byte
	median   atomic.Uint32 // of the latencies of all hosts, a float32 in nanoseconds; 0: not known
	medianAt atomic.Int64  // when it is to be found anew
	measured atomic.Pointer[[]*host]
}

// now returns the nanoseconds since the Pool was made, at least 1.
func (c *core) now() int64 { return max(1, int64(time.Since(c.start))) }

// latency returns the peak EWMA at a time in nanoseconds.
//
// While nothing ends, it comes down to the median, by half in a half-life, so that who was slow once is
// tried again; it never comes below, so that who is slow, fails or is cancelled does not look good
// because time goes by. Who has failed last is at the median at least: it may have been fast at that.
func (h *host) latency(now int64) float64 {
	w := h.ewma.Load()
	median := float64(math.Float32frombits(h.core.median.Load()))
	if w == 0 {
		if median < floorNanos {
			median = floorNanos
		}
		return median
	}
	v := float64(math.Float32frombits(uint32(w &^ failing >> 32)))
	switch {
	case v > median:
		v = median + (v-median)*h.core.decay(w, now)
	case w&failing != 0:
		v = median
	}
	return v
}

// decay returns 2^(-t/halfLife), for t since w was stored; between whole half-lives it is
// linear, which is 6 % more at most.
func (c *core) decay(w uint64, now int64) float64 {
	t := uint32(now>>ewmaShift) - uint32(w)
	if t == 0 || t > 1<<32-1<<20 { // others may have stored later times, by up to 18 minutes
		return 1
	}
	halves := float64(t) * c.perHalfLife
	if halves >= 64 {
		return 0
	}
	whole := int64(halves)
	return (1 - (halves-float64(whole))/2) * math.Float64frombits(uint64(1023-whole)<<52)
}

// observe takes in how long a request took (peak EWMA, from Twitter's Finagle): it jumps up at once,
// and comes down by half of the difference in a half-life. A failure raises it, to twice the median at
// least; what was cancelled, or was the client's fault, can only raise it, too.
func (h *host) observe(o Outcome, start, now int64) {
	c := h.core
	took := float64(max(now-start, floorNanos))
	kind := o.kind()
	if o > 0xff && kind == OK {
		took /= o.room()
	}
	first := false
	for {
		w := h.ewma.Load()
		first = w == 0
		median := float64(math.Float32frombits(c.median.Load()))
		old, keep, current := float64(math.Float32frombits(uint32(w&^failing>>32))), 1.0, median
		if w != 0 {
			keep, current = c.decay(w, now), old
			if old > median {
				current = median + (old-median)*keep
			}
		}
		v, flag := took, w&failing
		switch {
		case kind.failed():
			flag = failing
			v = max(current, median) * 2
			if median > 0 {
				v = min(v, capFactor*median)
			}
			v = max(v, took, current)
		case kind != OK:
			if w == 0 || took <= current {
				return
			}
		default:
			flag = 0
			if w != 0 && took < current {
				if v = took + (old-took)*keep; v > current {
					v = current
				}
			}
		}
		if v < floorNanos { // in fewer steps than max, which sees to NaN
			v = floorNanos
		}
		if v > ceilNanos {
			v = ceilNanos
		}
		stamp := uint32(now >> ewmaShift)
		if w != 0 && keep == 1 {
			stamp = uint32(w) // or a later one
		}
		next := flag | uint64(math.Float32bits(float32(v)))<<32 | uint64(stamp)
		if next == w || h.ewma.CompareAndSwap(w, next) {
			break
		}
	}
	if now >= c.medianAt.Load() || kind == OK && (first || c.median.Load() == 0) {
		c.findMedian(now, first || c.median.Load() == 0)
	}
}

// findMedian stores the median of the latencies that are known, or of a sample of them, unless somebody
// else is about it. It is found anew now and then, and with the first answer of an endpoint. The
// latencies of endpoints that fail are not known: failures raise them by what the median is, and if
// they counted, when most fail, each would raise the other.
func (c *core) findMedian(now int64, first bool) {
	at := c.medianAt.Load()
	if now < at && !first || !c.medianAt.CompareAndSwap(at, now+int64(1<<ewmaShift/(16*c.perHalfLife))) {
		return
	}
	hosts := c.measured.Load()
	if hosts == nil {
		return
	}
	var known [medianHosts]float32
	found := known[:0]
	step := max(1, (len(*hosts)+medianHosts-1)/medianHosts)
	for i := 0; i < len(*hosts); i += step {
		if w := (*hosts)[i].ewma.Load(); w != 0 && w&failing == 0 {
			found = append(found, math.Float32frombits(uint32(w>>32)))
		}
	}
	if len(found) == 0 {
		return
	}
	slices.Sort(found)
	c.median.Store(math.Float32bits(found[(len(found)-1)/2]))
}

// countsLocked returns how many requests were given to the host, and how many of them are in flight. It
// must be called now and then, before word has counted 2^38 more.
func (h *host) countsLocked() (all uint64, inFlight int64) {
	word := h.word.Load()
	n := word >> (1 + flightBits)
	// It is less, for a moment, when somebody has found the host closed.
	if more := (n - h.seen) & pickedMask; more <= pickedMask/2 {
		h.total += more
		h.seen = n
	}
	return h.total, flight(word)
}
