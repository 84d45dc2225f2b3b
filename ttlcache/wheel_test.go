package ttlcache

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Random additions, removals, postponements and turns, against a map.
func TestWheelModel(t *testing.T) {
	spans := []time.Duration{time.Microsecond, time.Millisecond, time.Second, time.Hour, 30 * 24 * time.Hour, 50 * 365 * 24 * time.Hour}
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 0))
		const nodes = 40
		var w wheel
		w.reset(nodes)
		now := int64(0)
		if seed%2 == 0 {
			now = rng.Int64N(int64(spans[5]))
		}
		times := map[uint32]int64{} // of what is in the wheel
		time := func(n uint32) int64 { return times[n] }
		span := func() int64 { return rng.Int64N(int64(spans[rng.IntN(len(spans)-int(seed%3))])) }
		for step := range 500 {
			switch n := uint32(1 + rng.IntN(nodes)); rng.IntN(6) {
			case 0, 1:
				if _, ok := times[n]; ok {
					w.remove(n)
				}
				times[n] = sum(now, span())
				w.advance(now)
				w.add(n, times[n])
			case 2:
				w.remove(n)
				delete(times, n)
			case 3: // put it off
				if at, ok := times[n]; ok {
					times[n] = sum(at, span())
				}
			default:
				now = min(now+span(), never/2)
				budget := []int{1, 3, 1000}[rng.IntN(3)]
				fired := map[uint32]bool{}
				count := w.turn(now, budget, time, func(n uint32) { fired[n] = true })
				require.Len(t, fired, count)
				require.LessOrEqual(t, count, budget)
				for n := range fired {
					require.LessOrEqual(t, times[n], now, "seed %d step %d: node %d", seed, step, n)
					delete(times, n)
				}
				if w.due > now { // it came to the end
					for n, at := range times {
						require.Greater(t, at, now, "seed %d step %d: node %d was not fired", seed, step, n)
					}
				} else {
					require.GreaterOrEqual(t, budget, 1)
				}
			}
			for _, n := range slices.Sorted(maps.Keys(times)) {
				require.True(t, w.contains(n) || times[n] == never)
			}
			require.NoError(t, w.check(nodes, time), "seed %d step %d", seed, step)
		}
	}
}

// A wheel that was not turned for long takes as many steps as it has nodes and levels, not
// as many as ticks have passed.
func TestWheelJump(t *testing.T) {
	var w wheel
	const nodes = 1000
	w.reset(nodes)
	at := func(n uint32) int64 { return int64(n) * int64(time.Hour) }
	for n := range uint32(nodes) {
		w.add(n+1, at(n+1))
	}
	looked := 0
	fired := w.turn(int64(10*365*24*time.Hour), nodes*(levels+3), func(n uint32) int64 {
		looked++
		return at(n)
	}, func(uint32) {})
	require.Equal(t, nodes, fired)
	require.LessOrEqual(t, looked, nodes*(levels+3))
	require.Equal(t, int64(never), w.due)
}

// Nodes leave in the order of their ticks, and one that was put off is not before its time.
func TestWheelOrder(t *testing.T) {
	var w wheel
	const nodes = 500
	w.reset(nodes)
	rng := rand.New(rand.NewPCG(1, 2))
	times := make([]int64, nodes+1)
	for n := range uint32(nodes) {
		times[n+1] = rng.Int64N(int64(time.Minute))
		w.add(n+1, times[n+1])
	}
	last := int64(0)
	for now := int64(0); now < int64(time.Minute); now += int64(10 * time.Millisecond) {
		w.turn(now, nodes*levels, func(n uint32) int64 { return times[n] }, func(n uint32) {
			require.LessOrEqual(t, times[n], now)
			require.Greater(t, times[n], now-int64(10*time.Millisecond))
			require.GreaterOrEqual(t, times[n]>>tickShift, last)
			last = times[n] >> tickShift
		})
	}
}
