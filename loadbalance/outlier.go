package loadbalance

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"
)

// An OutlierConfig has a Pool eject endpoints whose requests fail: by ServerError, ConnectError
// and Timeout. Others take their place, and they come back after a time, which grows.
type OutlierConfig struct {
	_ struct{}

	// ConsecutiveErrors is how many requests must fail, one after the other, for an endpoint to be
	// ejected at once. 0: none are ejected for that.
	ConsecutiveErrors int
	// SuccessRateFactor is by how many standard deviations an endpoint's success rate in an Interval
	// must be below the mean of all for it to be ejected. 1.9, as in Envoy, is common. 0: none are
	// ejected for that.
	SuccessRateFactor float64
	// MinRequests is how many requests of an endpoint must have ended in an Interval for its success rate
	// to count. 0: 100.
	MinRequests int
	// MinEndpoints is how many endpoints' success rates must count, for any to be ejected for it. 0: 5.
	MinEndpoints int

	// Interval is the time between two evaluations of success rates; and after each in which an
	// endpoint has not been ejected, it is forgotten that it was once. At least 1 ms, and at most a
	// year; 0: 10 s.
	Interval time.Duration
	// EjectFor is how long an endpoint is ejected the first time. The second time it is twice as long, the
	// third three times. At least 1 ms, and at most a year; 0: 30 s.
	EjectFor time.Duration
	// MaxEjectFor is how long an endpoint is ejected at most, at least EjectFor and at most a year.
	// 0: 5 min, or EjectFor if that is more.
	MaxEjectFor time.Duration
	// MaxEjected is the part of the endpoints, from 0 to 1, that may be ejected at the same time: who is
	// unhealthy by its checks does not count. One may be, whatever the part is, unless it is the last that
	// can be picked. 0: 0.1.
	MaxEjected float64
}

// year bounds durations, so that they can be added to times.
const year = 366 * 24 * time.Hour

func (c OutlierConfig) enabled() bool { return c.ConsecutiveErrors > 0 || c.SuccessRateFactor > 0 }

// checked returns c with its defaults.
func (c OutlierConfig) checked() (OutlierConfig, error) {
	if c.MinRequests == 0 {
		c.MinRequests = 100
	}
	if c.MinEndpoints == 0 {
		c.MinEndpoints = 5
	}
	if c.Interval == 0 {
		c.Interval = 10 * time.Second
	}
	if c.EjectFor == 0 {
		c.EjectFor = 30 * time.Second
	}
	if c.MaxEjectFor == 0 {
		c.MaxEjectFor = max(5*time.Minute, c.EjectFor)
	}
	if c.MaxEjected == 0 {
		c.MaxEjected = 0.1
	}
	switch {
	case c.ConsecutiveErrors < 0 || c.ConsecutiveErrors > math.MaxInt32:
		return c, fmt.Errorf("loadbalance: Outlier.ConsecutiveErrors must be between 0 and %d, got %d", math.MaxInt32, c.ConsecutiveErrors)
	case !(c.SuccessRateFactor >= 0):
		return c, fmt.Errorf("loadbalance: Outlier.SuccessRateFactor must be at least 0, got %v", c.SuccessRateFactor)
	case c.MinRequests < 1:
		return c, fmt.Errorf("loadbalance: Outlier.MinRequests must be at least 1, got %d", c.MinRequests)
	case c.MinEndpoints < 1:
		return c, fmt.Errorf("loadbalance: Outlier.MinEndpoints must be at least 1, got %d", c.MinEndpoints)
	case c.Interval < time.Millisecond || c.Interval > year:
		return c, fmt.Errorf("loadbalance: Outlier.Interval must be between 1ms and a year, got %v", c.Interval)
	case c.EjectFor < time.Millisecond || c.EjectFor > year:
		return c, fmt.Errorf("loadbalance: Outlier.EjectFor must be between 1ms and a year, got %v", c.EjectFor)
	case c.MaxEjectFor < c.EjectFor || c.MaxEjectFor > year:
		return c, fmt.Errorf("loadbalance: Outlier.MaxEjectFor must be between EjectFor, %v, and a year, got %v", c.EjectFor, c.MaxEjectFor)
	case !(c.MaxEjected >= 0 && c.MaxEjected <= 1):
		return c, fmt.Errorf("loadbalance: Outlier.MaxEjected must be between 0 and 1, got %v", c.MaxEjected)
	}
	return c, nil
}

// tooMany is called when as many requests of a host have failed as may.
func (p *Pool[T]) tooMany(h *host) {
	p.mu.Lock()
	defer p.flush()
	defer p.mu.Unlock()
	// Others may have seen the same errors, or a success come between.
	if n := h.streak.Load(); n < p.core.consecutive || !h.member || p.closed {
		return
	}
	h.streak.Store(0)
	if p.ejectLocked(h, p.core.now(), fmt.Errorf("loadbalance: %d requests failed one after the other", p.core.consecutive)) {
		p.changedLocked()
	}
}

// ejectLocked ejects a host, if there may be one more, and another is left.
func (p *Pool[T]) ejectLocked(h *host, now int64, why error) bool {
	if h.ejected {
		return false
	}
	all, ejected, left := 0, 0, 0
	for _, e := range p.list {
		if e.h.draining || e.Weight == 0 {
			continue
		}
		all++
		switch {
		case e.h.ejected:
			ejected++
		case !e.h.down && e.h != h:
			left++
		}
	}
	// By division, as 7 of 100 are 0.07, but 0.07 · 100 is more than 7.
	if left == 0 || ejected > 0 && float64(ejected+1)/float64(all) > p.config.Outlier.MaxEjected {
		return false
	}
	h.ejections++
	h.ejected, h.ejectedIn = true, true
	span := float64(p.config.Outlier.EjectFor) * float64(h.ejections)
	h.ejectedTo = now + int64(min(span, float64(p.config.Outlier.MaxEjectFor)))
	p.emitLocked(Event{Kind: Ejected, ID: h.id, Err: why})
	return true
}

// evaluateLocked ejects the hosts whose success rates are low, and begins a new interval. It
// reports whether any was.
func (p *Pool[T]) evaluateLocked(now int64) bool {
	c := &p.config.Outlier
	type rated struct {
		h    *host
		rate float64
	}
	var rates []rated
	sum := 0.0
	for _, e := range p.list {
		h := e.h
		switch {
		case h.ejected:
			h.ejectedIn = true
		case h.ejectedIn:
			h.ejectedIn = false
		case h.ejections > 0:
			h.ejections--
		}
		ok, failed := h.succeeded.Swap(0), h.failed.Swap(0)
		if n := uint64(ok) + uint64(failed); c.SuccessRateFactor > 0 && n >= uint64(c.MinRequests) && !h.ejected {
			rates = append(rates, rated{h, float64(ok) / float64(n)})
			sum += float64(ok) / float64(n)
		}
	}
	if len(rates) == 0 || len(rates) < c.MinEndpoints {
		return false
	}
	mean := sum / float64(len(rates))
	variance := 0.0
	for _, r := range rates {
		variance += (r.rate - mean) * (r.rate - mean)
	}
	floor := mean - c.SuccessRateFactor*math.Sqrt(variance/float64(len(rates)))
	// The worst first, as there may be more than can be ejected.
	slices.SortStableFunc(rates, func(a, b rated) int { return cmp.Compare(a.rate, b.rate) })
	ejected := false
	for _, r := range rates {
		if r.rate < floor {
			why := fmt.Errorf("loadbalance: its success rate was %.4f, and all others' %.4f on the average", r.rate, mean)
			ejected = p.ejectLocked(r.h, now, why) || ejected
		}
	}
	return ejected
}

// decayingLocked reports whether there are ejections to be forgotten.
func (p *Pool[T]) decayingLocked() bool {
	for _, e := range p.list {
		if e.h.ejections > 0 {
			return true
		}
	}
	return false
}

// setTimerLocked has tick called at a time; MaxInt64 for never.
func (p *Pool[T]) setTimerLocked(at, now int64) {
	switch {
	case at == math.MaxInt64:
		if p.timer != nil {
			p.timer.Stop()
		}
		at = 0
	case at == p.timerAt:
		return
	case p.timer == nil:
		p.timer = time.AfterFunc(time.Duration(max(at-now, 0)), p.tick)
	default:
		p.timer.Reset(time.Duration(max(at-now, 0)))
	}
	p.timerAt = at
}

// tick does what is due: steps of slow starts, ends of ejections, evaluations of success rates.
func (p *Pool[T]) tick() {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.running.Add(1) // for Close to wait for OnEvent
	defer p.running.Done()
	defer p.flush()
	defer p.mu.Unlock()
	p.timerAt = 0
	now := p.core.now()
	for _, e := range p.list {
		if h := e.h; h.ejected && now >= h.ejectedTo {
			h.ejected = false
			h.streak.Store(0)
			p.rampLocked(h)
			p.emitLocked(Event{Kind: Returned, ID: e.ID})
		}
	}
	if p.core.outlier && now >= p.evalAt {
		p.evaluateLocked(now)
		// What is missed is not made up for.
		p.evalAt = max(p.evalAt, now-int64(p.config.Outlier.Interval)) + int64(p.config.Outlier.Interval)
	}
	p.rebuildLocked()
}
