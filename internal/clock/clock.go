// Package clock tells the time to those who ask for it a million times a second.
//
// To read the clock of the system takes about as long as to look up an entry in a cache.
// Mostly the exact time is not needed: that an entry with an hour to live is alive can be told
// by a clock that is somewhat late. So a Clock that is read often starts to run: every Tick a
// timer takes down the time. A reader loads what was taken down, and asks the system only
// where the difference could matter. The timer runs for two thirds of a second, and then
// again if the clock is still read often; no goroutine waits for anything, and a clock that
// nobody reads does nothing.
package clock

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// Tick is the time between two times that are taken down: a running clock is late by
	// that at most, and by what the runtime delays the timer.
	Tick = 10 * time.Millisecond
	// Margin is what a running clock is never late by, unless the runtime delays a timer
	// that long. It runs timers between any two goroutines, of which none runs for more
	// than 10 ms in one go, so this takes a process that gets no CPU; which might have been
	// stopped as well between reading an exact clock and using the result.
	Margin = 100 * time.Millisecond

	// window is how many reads within one Tick start the clock.
	window = 64
	// ticks is for how many Ticks it then runs.
	ticks = 64
)

// A Clock tells the time since it was made by Init, in nanoseconds. It is monotonic: it
// neither steps back nor jumps when the system's clock is set. Whether it goes on while the
// machine is suspended depends on the system; on Linux it does not. A Clock is safe for
// concurrent use by multiple goroutines.
//
// The type parameter has no meaning; see readlock.Lock.
type Clock[T any] struct {
	_    [128]byte    // readers share the line of soon, so nobody else is to write to it
	soon atomic.Int64 // what was taken down, and Margin; MaxInt64 if the clock does not run
	_    [120]byte

	start time.Time
	reads atomic.Int64 // reads of the system's clock while this one did not run
	since atomic.Int64 // when their number was last divisible by window

	mu      sync.Mutex
	left    int // Ticks to run; 0: it does not run
	timer   *time.Timer
	stopped bool
}

// Init sets the clock to 0.
func (c *Clock[T]) Init() {
	c.start = time.Now()
	c.soon.Store(math.MaxInt64)
}

// Now returns the time, exactly.
func (c *Clock[T]) Now() int64 {
	now := int64(time.Since(c.start))
	if c.soon.Load() == math.MaxInt64 && c.reads.Add(1)%window == 0 {
		if now-c.since.Swap(now) < int64(Tick) {
			c.run()
		}
	}
	return now
}

// Soon returns a time that has not come yet, but will within Margin, if the clock runs;
// else the latest time that there is. What is later than Soon is in the future.
func (c *Clock[T]) Soon() int64 { return c.soon.Load() }

// Late returns the time, or one up to Tick before, and whether it is exact.
func (c *Clock[T]) Late() (now int64, exact bool) {
	if soon := c.soon.Load(); soon != math.MaxInt64 {
		return soon - int64(Margin), false
	}
	return c.Now(), true
}

// run makes the clock run for a while.
func (c *Clock[T]) run() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left > 0 || c.stopped {
		return
	}
	c.left = ticks
	c.take()
	c.timer = time.AfterFunc(Tick, c.tick)
}

// take takes down the time.
func (c *Clock[T]) take() { c.soon.Store(int64(time.Since(c.start)) + int64(Margin)) }

func (c *Clock[T]) tick() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return
	}
	if c.left--; c.left == 0 {
		c.soon.Store(math.MaxInt64)
		return
	}
	c.take()
	c.timer.Reset(Tick)
}

// Stop stops the timer for good: the clock asks the system from now on.
func (c *Clock[T]) Stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = true
	c.left = 0
	c.soon.Store(math.MaxInt64)
	if c.timer != nil {
		c.timer.Stop()
	}
}
