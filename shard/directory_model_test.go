package shard

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A dirModel is a naive directory, which forgets nothing for want of room: what it knows of each key, and
// all that the store has ever held. It does not ask the store by itself but is told whether the
// Directory has; so it can follow one that forgets more.
type dirModel struct {
	ttl, negativeTTL, staleFor, retryAfter time.Duration

	now     time.Duration
	known   map[int]dirKnown
	rows    map[int][]dirVersion // in the order of time
	trouble time.Duration        // when the store has last failed, or lagged behind
	lag     time.Duration        // by which what Lookup sees is older
	maxLag  time.Duration        // that there ever was
	down    bool                 // every call fails
	vague   bool                 // writes fail after they have taken effect
}

// A dirVersion is a row from a time on.
type dirVersion struct {
	since time.Duration
	row   Placement // none if Shard is ""
}

// A dirKnown is what is known of a key: none if row.Shard is "".
type dirKnown struct {
	row            Placement
	deadline, hold time.Duration
}

// at returns the row of k at a time.
func (m *dirModel) at(k int, at time.Duration) (row Placement) {
	for _, v := range m.rows[k] {
		if v.since <= at {
			row = v.row
		}
	}
	return row
}

func (m *dirModel) write(k int, row Placement) {
	m.rows[k] = append(m.rows[k], dirVersion{m.now, row})
}

// was reports whether k had a row at some time in the last d.
func (m *dirModel) was(k int, row Placement, d time.Duration) bool {
	if m.at(k, m.now-d) == row {
		return true
	}
	return slices.ContainsFunc(m.rows[k], func(v dirVersion) bool { return v.since >= m.now-d && v.row == row })
}

func (m *dirModel) servable(is dirKnown, ok bool) bool {
	return ok && is.row.Shard != "" && m.now < is.deadline+m.staleFor
}

// must reports whether the store is to be asked for k.
func (m *dirModel) must(k int) bool {
	is, ok := m.known[k]
	return !(ok && m.now < is.deadline || m.servable(is, ok) && m.now < is.hold)
}

func (m *dirModel) know(k int, row Placement) {
	ttl := m.ttl
	if row.State != Serving {
		ttl = min(ttl, m.retryAfter)
	}
	m.known[k] = dirKnown{row: row, deadline: m.now + ttl}
}

// answer returns what Route is to return for k, given whether the store was asked.
func (m *dirModel) answer(k int, asked bool) (Placement, error) {
	is, ok := m.known[k]
	rescue := func() (Placement, error) {
		if m.now >= is.deadline {
			is.hold = m.now + m.retryAfter
			m.known[k] = is
		}
		return is.row, nil
	}
	row := m.at(k, m.now-m.lag)
	switch {
	case !asked && is.row.Shard == "":
		return Placement{}, ErrNotFound
	case !asked:
		return is.row, nil
	case m.down && m.servable(is, ok):
		return rescue()
	case m.down:
		return Placement{}, errDown
	case row.Shard == "":
		m.known[k] = dirKnown{deadline: m.now + m.negativeTTL}
		return Placement{}, ErrNotFound
	case m.servable(is, ok) && is.row.Epoch > row.Epoch && m.now < is.deadline+min(m.ttl, m.staleFor):
		return rescue()
	}
	m.know(k, row)
	return row, nil
}

func (m *dirModel) doubt(k int) {
	if is, ok := m.known[k]; ok && is.row.Shard == "" {
		delete(m.known, k)
	} else if ok {
		is.deadline = min(is.deadline, m.now)
		m.known[k] = is
	}
}

// wrote takes note that k has, or had a moment ago, a row.
func (m *dirModel) wrote(k int, row Placement) {
	if is := m.known[k]; is.row.Epoch > row.Epoch {
		delete(m.known, k)
		return
	}
	m.know(k, row)
}

// dirCompare makes a Directory and a model do the same, as next decides. If the Directory has room for
// all, it must ask the store whenever the model would, and never else; if not, it may ask more often, and
// what it has to say may have been lost, or be newer for that.
func dirCompare(t *testing.T, name string, capacity, steps int, lags bool, next func(n int) int) {
	const keys = 12
	roomy := capacity >= 1000
	store := newDirTable[int](nil)
	m := &dirModel{
		ttl: time.Minute, negativeTTL: 10 * time.Second, staleFor: 10 * time.Minute, retryAfter: 2 * time.Second,
		known: map[int]dirKnown{}, rows: map[int][]dirVersion{}, trouble: -time.Hour,
	}
	d := newDirectory(t, dirFunc[int]{store, func(ctx context.Context, asked []int) (map[int]Placement, error) {
		if _, err := store.Lookup(ctx, slices.Clone(asked)); err != nil {
			return nil, err
		}
		found := map[int]Placement{}
		for _, k := range asked {
			if row := m.at(k, m.now-m.lag); row.Shard != "" {
				found[k] = row
			}
		}
		return found, nil
	}}, DirectoryConfig[int]{
		Capacity: capacity, NegativeCapacity: capacity, TTL: m.ttl, NegativeTTL: m.negativeTTL, StaleFor: m.staleFor,
		RetryAfter: m.retryAfter, MaxBatch: 1 + next(4), Concurrency: 1 + next(2),
	})
	store.before = func(ctx context.Context, op string, keys ...int) error {
		if m.down {
			return errDown
		}
		return nil
	}
	store.after = func(ctx context.Context, op string, keys ...int) error {
		if m.vague && op != "lookup" {
			return errDown
		}
		return nil
	}
	ctx := t.Context()
	start := time.Now()
	asked := func() map[int]bool {
		all := map[int]bool{}
		for _, keys := range store.lookups {
			for _, k := range keys {
				all[k] = true
			}
		}
		store.lookups = nil
		return all
	}
	what := ""
	judge := func(k int, asked bool, p Placement, err error) {
		t.Helper()
		if must := m.must(k); must != asked {
			require.False(t, must || roomy, "%s: asked the store for %d: %v", what, k, asked)
		}
		_, remembered := m.known[k]
		want, wantErr := m.answer(k, asked)
		if !roomy && m.down && asked && remembered && errors.Is(err, errDown) {
			return // it was forgotten
		}
		if wantErr != nil {
			require.ErrorIs(t, err, wantErr, what)
		} else {
			require.NoError(t, err, what)
		}
		require.Equal(t, want, p, what)
		// Whatever the model says: nothing is older than promised.
		oldest := m.ttl + m.maxLag
		if m.now < m.trouble+m.retryAfter {
			oldest += m.staleFor
		}
		switch {
		case err == nil:
			require.True(t, m.was(k, p, oldest), "%s: %v is outdated", what, p)
		case errors.Is(err, ErrNotFound):
			require.True(t, m.was(k, Placement{}, m.negativeTTL+m.maxLag), "%s: there was a row all the time", what)
		default:
			require.True(t, m.down, what)
		}
	}
	// store2 makes the store and the history agree after a write of k.
	written := func(k int) {
		row, _ := store.row(k)
		if row != m.at(k, m.now) {
			m.write(k, row)
		}
	}
	spans := []time.Duration{1, time.Second, 2 * time.Second, 3 * time.Second, 10 * time.Second, 59 * time.Second, time.Minute, 5 * time.Minute, 11 * time.Minute}
	for step := range steps {
		k := next(keys)
		row := Placement{Shard: ID(fmt.Sprint("s", next(3))), State: PartState(max(0, next(6)-3))}
		switch op := next(24); op {
		default:
			what = fmt.Sprintf("%s step %d: Route(%d)", name, step, k)
			p, err := d.Route(ctx, k)
			judge(k, asked()[k], p, err)
		case 0, 1:
			some := []int{k, (k + 1) % keys, (k + 5) % keys, k, (k + 3) % keys}[:next(6)]
			what = fmt.Sprintf("%s step %d: RouteAll(%v)", name, step, some)
			found, err := d.RouteAll(ctx, some)
			asked := asked()
			errs := map[int]error{}
			var failed *KeysError[int]
			if errors.As(err, &failed) {
				for i, k := range failed.Keys {
					errs[k] = failed.Errs[i]
				}
			}
			slices.Sort(some)
			for _, k := range slices.Compact(some) {
				p, ok := found[k]
				if !ok && errs[k] == nil {
					errs[k] = ErrNotFound
				}
				judge(k, asked[k], p, errs[k])
			}
		case 2, 3:
			what = fmt.Sprintf("%s step %d: Insert(%d, %v)", name, step, k, row)
			old := m.at(k, m.now)
			p, err := d.Insert(ctx, k, row)
			written(k)
			switch {
			case m.down || m.vague:
				require.ErrorIs(t, err, errDown, what)
				m.doubt(k)
			case old.Shard != "":
				require.ErrorIs(t, err, ErrExists, what)
				require.Equal(t, old, p, what)
				m.wrote(k, old)
			default:
				require.NoError(t, err, what)
				require.Equal(t, m.at(k, m.now), p, what)
				m.wrote(k, p)
			}
		case 4, 5, 6, 7:
			old := m.at(k, m.now)
			epoch := old.Epoch + uint64(next(4)/3)
			if old.Shard == "" {
				epoch = 1
			}
			var err error
			var p Placement
			if op < 6 {
				what = fmt.Sprintf("%s step %d: Update(%d, %d, %v)", name, step, k, epoch, row)
				p, err = d.Update(ctx, k, epoch, row)
			} else {
				what = fmt.Sprintf("%s step %d: Delete(%d, %d)", name, step, k, epoch)
				err = d.Delete(ctx, k, epoch)
			}
			written(k)
			switch {
			case m.down || m.vague:
				require.ErrorIs(t, err, errDown, what)
				m.doubt(k)
			case old.Shard == "" && op < 6:
				require.ErrorIs(t, err, ErrNotFound, what)
				delete(m.known, k)
			case old.Shard != "" && epoch != old.Epoch:
				require.ErrorIs(t, err, ErrStaleEpoch, what)
				delete(m.known, k)
			case op < 6:
				require.NoError(t, err, what)
				require.Greater(t, p.Epoch, old.Epoch, what)
				m.wrote(k, p)
			default:
				require.NoError(t, err, what)
				delete(m.known, k)
			}
		case 8, 9:
			what = fmt.Sprintf("%s step %d: another process changes %d", name, step, k)
			if old := m.at(k, m.now); next(3) == 0 {
				store.drop(k)
			} else {
				row.Epoch = max(old.Epoch+1, uint64(time.Now().UnixMicro()))
				store.set(k, row)
			}
			written(k)
		case 10:
			what = fmt.Sprintf("%s step %d: Invalidate(%d)", name, step, k)
			d.Invalidate(k)
			delete(m.known, k)
		case 11:
			if next(10) == 0 {
				what = fmt.Sprintf("%s step %d: Clear()", name, step)
				d.Clear()
				clear(m.known)
			}
		case 12:
			if m.down = next(2) == 0; m.down {
				m.trouble = m.now
			}
			m.vague = next(4) == 0
		case 13:
			if lags {
				if m.lag = time.Duration(next(3)) * 20 * time.Second; m.lag > 0 {
					m.trouble = m.now
				}
				m.maxLag = max(m.maxLag, m.lag)
			}
		case 14, 15, 16, 17:
			time.Sleep(spans[next(len(spans))])
			m.now = time.Since(start)
		}
		if m.down || m.lag > 0 {
			m.trouble = m.now
		}
		asked()
		require.NoError(t, d.check(), what)
		require.LessOrEqual(t, d.Len(), capacity, what)
	}
	d.idle(t)
}

// Random calls, compared with the model after each.
func TestDirectoryModel(t *testing.T) {
	seeds, steps := uint64(60), 600
	if underRace || testing.Short() {
		seeds = 10
	}
	for _, c := range []struct {
		name     string
		capacity int
		lags     bool
	}{
		{"roomy", 1000, false},
		{"lagging", 1000, true},
		{"crowded", 4, false},
		{"one", 1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			for seed := range seeds {
				synctest.Test(t, func(t *testing.T) {
					rng := rand.New(rand.NewPCG(seed, 0))
					dirCompare(t, fmt.Sprintf("seed %d", seed), c.capacity, steps, c.lags, rng.IntN)
				})
			}
		})
	}
}
