package clock

import (
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// often reads c as often as it takes to make it run.
func often(c *Clock[int]) {
	for range window {
		c.Now()
	}
}

func TestSeldomRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c Clock[int]
		c.Init()
		for i := range 10 * window {
			require.Equal(t, int64(i)*int64(time.Millisecond), c.Now())
			require.Equal(t, int64(math.MaxInt64), c.Soon())
			now, exact := c.Late()
			require.True(t, exact)
			require.Equal(t, int64(i)*int64(time.Millisecond), now)
			time.Sleep(time.Millisecond)
		}
	})
}

func TestOftenRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c Clock[int]
		c.Init()
		time.Sleep(time.Hour)
		often(&c) // sets since
		often(&c)
		begun := c.Now()
		for range int(ticks * Tick / time.Millisecond) {
			late, exact := c.Late()
			require.False(t, exact)
			require.Equal(t, late+int64(Margin), c.Soon())
			require.LessOrEqual(t, late, c.Now())
			require.GreaterOrEqual(t, late, c.Now()-int64(Tick))
			time.Sleep(time.Millisecond)
			synctest.Wait()
		}
		require.Equal(t, begun+int64(ticks*Tick), c.Now())
		_, exact := c.Late()
		require.True(t, exact, "it has stopped")
		often(&c)
		often(&c)
		_, exact = c.Late()
		require.False(t, exact, "it runs again")
	})
}

func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c Clock[int]
		c.Init()
		c.Stop() // before it ever ran
		often(&c)
		require.Equal(t, int64(math.MaxInt64), c.Soon())

		var d Clock[int]
		d.Init()
		often(&d)
		require.NotEqual(t, int64(math.MaxInt64), d.Soon())
		d.Stop()
		d.Stop()
		d.tick() // one that was under way
		often(&d)
		often(&d)
		require.Equal(t, int64(math.MaxInt64), d.Soon())
		require.Zero(t, d.left)
	})
}

func TestRace(t *testing.T) {
	var c Clock[int]
	c.Init()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			last := int64(0)
			for range 10_000 {
				late, _ := c.Late()
				now := c.Now()
				if now < last || now < late {
					t.Errorf("the clock went from %d and %d to %d", last, late, now)
				}
				last = now
			}
		})
	}
	wg.Wait()
	c.Stop()
}
