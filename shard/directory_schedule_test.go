package shard

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// dirSchedules calls run once for each way in which it can be answered when it asks choose for a number
// below n, and returns how many there are.
func dirSchedules(run func(choose func(n int) int)) (count int) {
	var path, widths []int
	for {
		at := 0
		run(func(n int) int {
			if at == len(path) {
				path, widths = append(path, 0), append(widths, n)
			}
			at++
			return path[at-1]
		})
		count++
		for len(path) > 0 && path[len(path)-1] == widths[len(path)-1]-1 {
			path, widths = path[:len(path)-1], widths[:len(path)-1]
		}
		if len(path) == 0 {
			return count
		}
		path[len(path)-1]++
	}
}

// A dirWorld is a store, the data of one key, and processes that stop before each step, be it one of the
// store or one of the data, until they are told to go on.
type dirWorld struct {
	store  *dirTable[string]
	data   map[ID]bool // the shards that have the data
	parked map[int]chan bool
	errs   map[int]error // of the processes that have ended
	trace  []string
}

type dirProcessKey struct{}

// A dirProcess is one process: what it does, with a Directory of its own.
type dirProcess func(ctx context.Context, w *dirWorld, d *Directory[string]) error

func (w *dirWorld) step(ctx context.Context, what string) {
	i := ctx.Value(dirProcessKey{}).(int)
	turn := make(chan bool)
	w.store.mu.Lock()
	w.parked[i] = turn
	w.store.mu.Unlock()
	<-turn
	w.trace = append(w.trace, fmt.Sprintf("%d:%s", i, what))
}

// runDirWorld lets processes run, one step at a time, in the order that choose says.
func runDirWorld(t *testing.T, there bool, processes []dirProcess, choose func(n int) int) *dirWorld {
	w := &dirWorld{store: newDirTable[string](nil), data: map[ID]bool{}, parked: map[int]chan bool{}, errs: map[int]error{}}
	if there {
		w.store.set("k", Placement{Shard: "s1", Epoch: 1})
		w.data["s1"] = true
	}
	w.store.before = func(ctx context.Context, op string, keys ...string) error {
		w.step(ctx, op)
		return nil
	}
	for i, process := range processes {
		d := newDirectory(t, w.store, DirectoryConfig[string]{})
		go func() {
			err := process(context.WithValue(t.Context(), dirProcessKey{}, i), w, d)
			w.store.mu.Lock()
			defer w.store.mu.Unlock()
			w.errs[i] = err
		}()
	}
	for {
		synctest.Wait()
		var ready []int
		for i := range processes {
			if w.parked[i] != nil {
				ready = append(ready, i)
			}
		}
		if len(ready) == 0 {
			return w
		}
		i := ready[0]
		if len(ready) > 1 {
			i = ready[choose(len(ready))]
		}
		turn := w.parked[i]
		delete(w.parked, i)
		close(turn)
	}
}

func dirCreates(shard ID) dirProcess {
	return func(ctx context.Context, w *dirWorld, d *Directory[string]) error {
		p, err := d.Create(ctx, "k", Placement{Shard: shard}, func(ctx context.Context, p Placement) error {
			w.step(ctx, "write")
			w.data[p.Shard] = true
			return nil
		})
		if err == nil && p.State == Fenced {
			return fmt.Errorf("Create returned %v", p)
		}
		return err
	}
}

func dirRemoves(ctx context.Context, w *dirWorld, d *Directory[string]) error {
	return d.Remove(ctx, "k", func(ctx context.Context, p Placement) error {
		w.step(ctx, "erase")
		delete(w.data, p.Shard)
		return nil
	})
}

// dirMoves moves the key from s1 to s2.
func dirMoves(ctx context.Context, w *dirWorld, d *Directory[string]) error {
	row, err := d.Route(ctx, "k")
	if err != nil {
		return err
	}
	for _, next := range []Placement{{Shard: "s1", State: Migrating}, {Shard: "s1", State: Fenced}, {Shard: "s2"}} {
		if next.Shard == "s2" {
			w.step(ctx, "copy")
			if w.data["s1"] {
				w.data["s2"] = true
			}
		}
		if row, err = d.Update(ctx, "k", row.Epoch, next); err != nil {
			w.step(ctx, "clean")
			delete(w.data, "s2")
			return err
		}
	}
	w.step(ctx, "clean")
	delete(w.data, "s1")
	return nil
}

// Two processes that create, remove and move one key at the same time: whatever the order of their steps,
// what was created is where the row says, and there is no data that no row leads to.
func TestDirectoryProcesses(t *testing.T) {
	for _, c := range []struct {
		name      string
		there     bool // row and data, at first
		processes []dirProcess
		leftover  bool // data may be left where the row was once
	}{
		{name: "create and remove", processes: []dirProcess{dirCreates("s1"), dirRemoves}},
		{name: "create again and remove", there: true, processes: []dirProcess{dirCreates("s1"), dirRemoves}},
		{name: "create again, elsewhere, and remove", there: true, processes: []dirProcess{dirCreates("s2"), dirRemoves}},
		{name: "create and create", processes: []dirProcess{dirCreates("s1"), dirCreates("s2")}},
		{name: "create again and create again", there: true, processes: []dirProcess{dirCreates("s1"), dirCreates("s2")}},
		{name: "create again and move", there: true, processes: []dirProcess{dirCreates("s1"), dirMoves}, leftover: true},
		{name: "create and move", processes: []dirProcess{dirCreates("s1"), dirMoves}, leftover: true},
		{name: "remove and move", there: true, processes: []dirProcess{dirRemoves, dirMoves}},
		{name: "create and remove, and create elsewhere", there: true, processes: []dirProcess{dirCreates("s1"), func(ctx context.Context, w *dirWorld, d *Directory[string]) error {
			if err := dirRemoves(ctx, w, d); err != nil {
				return nil
			}
			return dirCreates("s2")(ctx, w, d)
		}}, leftover: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			results := map[string]int{}
			n := dirSchedules(func(choose func(n int) int) {
				synctest.Test(t, func(t *testing.T) {
					w := runDirWorld(t, c.there, c.processes, choose)
					row, ok := w.store.row("k")
					what := fmt.Sprintf("%v: %v, data in %v, row %v %v", w.trace, w.errs, w.data, row, ok)
					require.Len(t, w.errs, len(c.processes), what)
					created := false
					for i, err := range w.errs {
						for _, fine := range []error{nil, ErrNotFound, ErrStaleEpoch, ErrFenced} {
							if errors.Is(err, fine) {
								results[fmt.Sprint(i, fine)]++
								err = nil
							}
						}
						require.NoError(t, err, what)
						created = created || i == 0 && w.errs[0] == nil && c.name[0] == 'c'
					}
					if created && ok && row.State != Fenced {
						require.True(t, w.data[row.Shard], what)
					}
					for id := range w.data {
						require.True(t, c.leftover && (!ok || id != row.Shard) || ok && row.Shard == id, what)
					}
				})
			})
			t.Log(n, results)
			require.Greater(t, n, 10)
		})
	}
}

// A Create that others get in the way of each time says so.
func TestDirectoryCreateAgainAndAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newDirTable[string](nil)
		a, b := newDirectory(t, store, DirectoryConfig[string]{}), newDirectory(t, store, DirectoryConfig[string]{})
		ctx := t.Context()
		writes := 0
		_, err := a.Create(ctx, "k", Placement{Shard: "s1"}, func(context.Context, Placement) error {
			writes++
			return b.Remove(ctx, "k", func(context.Context, Placement) error { return nil })
		})
		require.ErrorIs(t, err, ErrStaleEpoch)
		require.EqualError(t, err, "shard: others have changed the row of k 10 times while it was created: stale epoch")
		require.Equal(t, 10, writes)
		// An old row is young before write is called, so that who deletes old rows without data leaves it alone.
		old, err := b.Insert(ctx, "k", Placement{Shard: "s1"})
		require.NoError(t, err)
		_, err = a.Create(ctx, "k", Placement{Shard: "s1"}, func(_ context.Context, p Placement) error {
			require.Greater(t, p.Epoch, old.Epoch)
			require.ErrorIs(t, b.Delete(ctx, "k", old.Epoch), ErrStaleEpoch)
			return nil
		})
		require.NoError(t, err)
		// A Create that comes to a key that is being removed does not begin.
		require.NoError(t, b.Remove(ctx, "k", func(context.Context, Placement) error {
			_, err := a.Create(ctx, "k", Placement{Shard: "s1"}, nil)
			require.Equal(t, ErrFenced, err)
			return nil
		}))
		// And if there is no row, nothing is erased, even if the cache has one.
		_, err = b.Insert(ctx, "k", Placement{Shard: "s1"})
		require.NoError(t, err)
		store.drop("k")
		require.ErrorIs(t, b.Remove(ctx, "k", nil), ErrNotFound)
	})
}
