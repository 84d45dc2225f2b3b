package shard

import (
	"context"
	"errors"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// FuzzIDLayout checks that a layout is refused, or divides an ID into parts that make it up again.
func FuzzIDLayout(f *testing.F) {
	f.Add(0, 0, 0, int64(0), int64(0), int64(12345<<22|6<<10|7))
	f.Add(41, 1, 21, int64(0), int64(0), int64(math.MaxInt64))
	f.Add(41, 5, 7, int64(time.Millisecond), int64(1420070400), int64(1<<53-1))
	f.Add(38, 16, 9, int64(10*time.Millisecond), int64(-1<<35), int64(1<<62))
	f.Add(61, 1, 1, int64(1), int64(minIDEpoch), int64(math.MaxInt64))
	f.Add(1, 32, 30, int64(time.Hour), int64(maxIDEpoch-1), int64(-1))
	f.Add(1, 32, math.MaxInt32, int64(math.MaxInt64), int64(math.MaxInt64), int64(math.MinInt64))
	f.Fuzz(func(t *testing.T, tb, sb, qb int, unit, epoch, id int64) {
		l := IDLayout{TimeBits: tb, ShardBits: sb, SequenceBits: qb, Unit: time.Duration(unit), Epoch: time.Unix(epoch, 0)}
		p, err := l.Parse(id)
		if l.Validate() != nil {
			require.Error(t, err)
			return
		}
		n, err2 := l.ShardOf(id)
		l, _ = l.resolve()
		bits := l.TimeBits + l.ShardBits + l.SequenceBits
		require.Equal(t, id >= 0 && id>>bits == 0, err == nil)
		require.Equal(t, err, err2)
		if err != nil {
			return
		}
		require.Equal(t, n, p.Shard)
		units := int64(p.Time.Sub(l.Epoch) / l.Unit)
		require.Equal(t, id, units<<(bits-l.TimeBits)|int64(p.Shard)<<l.SequenceBits|p.Sequence)
		first, err := l.FirstAt(p.Time)
		require.NoError(t, err)
		require.Equal(t, id>>(bits-l.TimeBits)<<(bits-l.TimeBits), first)

		loc, err := NewIDLocator(l, map[uint32]ID{n: "here"})
		require.NoError(t, err)
		require.Equal(t, Placement{Shard: "here", Part: PartID(n)}, loc.Locate(id))
		require.Zero(t, loc.Locate(id^1<<l.SequenceBits))
		require.Zero(t, loc.Locate(-id-1))
	})
}

// FuzzIDGen lets the clock run and jump, the process restart and the store fail, by a program of two bytes
// for each operation. IDs must be in order, below the mark, not behind the clock, and no further ahead of
// what it has shown, and of where the process began, than is allowed.
func FuzzIDGen(f *testing.F) {
	f.Add([]byte{0, 3, 0, 10, 1, 5, 2, 9, 0, 8, 5, 0, 0, 3}, uint8(2), uint8(3), uint8(5), uint8(20), true)
	f.Add([]byte{0, 250, 1, 1, 0, 250, 4, 200, 0, 9, 3, 200, 0, 9, 5, 1, 0, 1}, uint8(1), uint8(0), uint8(0), uint8(9), true)
	f.Add([]byte{0, 1, 3, 255, 0, 1, 4, 255, 0, 1, 2, 10, 0, 200}, uint8(9), uint8(9), uint8(9), uint8(9), false)
	f.Add([]byte{6, 1, 0, 1, 1, 100, 0, 1, 6, 0, 0, 1, 6, 1, 0, 255, 1, 90, 0, 255}, uint8(3), uint8(2), uint8(40), uint8(3), true)
	f.Fuzz(func(t *testing.T, program []byte, seq, lead, regression, ahead uint8, marked bool) {
		if len(program) > 400 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			const ms = time.Millisecond
			var clock wallClock
			m := &memMark{}
			broken := errors.New("broken")
			c := IDConfig{
				Layout: IDLayout{TimeBits: 14, ShardBits: 1, SequenceBits: 1 + int(seq%16), Epoch: time.Now().Add(-100 * ms)},
				Shard:  1, MaxLead: time.Duration(lead)*ms + 1, MaxRegression: time.Duration(regression)*ms + 1,
				MarkAhead: time.Duration(ahead)*ms + ms,
			}
			if marked {
				c.Mark = m
			}
			g := clock.newTestGen(t, c)
			last, latest := int64(-1), time.Now()
			var back, restarts time.Duration
			for i := 0; i+1 < len(program); i += 2 {
				n := time.Duration(program[i+1])
				switch program[i] % 7 {
				case 0:
					ctx, cancel := context.WithTimeout(t.Context(), n/8*ms)
					ids := make([]int64, n*n/16)
					got, err := g.NextN(ctx, ids)
					cancel()
					require.Equal(t, err != nil, got < len(ids))
					now := time.Now().Add(time.Duration(clock.by.Load()))
					if now.After(latest) {
						latest = now
					}
					for _, id := range ids[:got] {
						require.Greater(t, id, last)
						last = id
						p, err := g.Parse(id)
						require.NoError(t, err)
						require.EqualValues(t, 1, p.Shard)
						if marked {
							require.Less(t, id, m.mark.Load())
						}
						// As pace goes half as fast, it is ahead of what the clock has shown by a step
						// or a restart at most, and by the steps that are none after a restart. Each
						// time, a unit is issued, and as much is reserved, though no time has passed.
						most := time.Duration(lead)*ms + c.MaxRegression
						if marked {
							most += c.MarkAhead + time.Duration(lead)*ms + back + 2*restarts*ms
						}
						require.LessOrEqual(t, p.Time.Sub(latest), most)
					}
					if err != nil {
						require.True(t, errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrClockRegression) ||
							errors.Is(err, ErrTimeExhausted) || errors.Is(err, broken) && marked, "%v", err)
					}
				case 1:
					time.Sleep(n * ms)
				case 2:
					time.Sleep(n * ms / 16)
				case 3:
					clock.step(n * ms / 8)
				case 4:
					clock.step(-n * ms / 8)
					back += n * ms / 8
				case 5:
					if marked && time.Since(c.Layout.Epoch)+time.Duration(clock.by.Load()) > 0 {
						if r, err := newIDGen(c, g.set); err == nil {
							g = r
							restarts++
						} else {
							require.ErrorIs(t, err, ErrTimeExhausted)
						}
					}
				case 6:
					if n%2 == 1 {
						m.fail(broken)
					} else {
						m.fail(nil)
					}
				}
				if now := time.Now().Add(time.Duration(clock.by.Load())); now.After(latest) {
					latest = now
				}
			}
		})
	})
}
