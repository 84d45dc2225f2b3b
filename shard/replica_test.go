package shard

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPositionCovers(t *testing.T) {
	for _, tt := range []struct {
		p, q Position
		want bool
	}{
		{Position{1, 1, 5}, Position{1, 1, 5}, true},
		{Position{1, 1, 6}, Position{1, 1, 5}, true},
		{Position{1, 1, 4}, Position{1, 1, 5}, false},
		{Position{2, 1, 9}, Position{1, 1, 5}, false}, // of another source
		{Position{1, 2, 5}, Position{1, 1, 5}, true},
		{Position{1, 2, 4}, Position{1, 1, 5}, false}, // far behind, or what was lost
		{Position{1, 1, 9}, Position{1, 2, 5}, false}, // it follows the former primary
		{Position{math.MaxUint64, math.MaxUint64, math.MaxUint64}, Position{math.MaxUint64, 0, 0}, true},
	} {
		require.Equal(t, tt.want, tt.p.Covers(tt.q), "%v %v", tt.p, tt.q)
	}
}

func TestErrorsOfDatabases(t *testing.T) {
	other := errors.New("invalid connection")
	g := &group{c: &SQLConfig{Unreachable: func(err error) bool { return errors.Is(err, other) }}}
	for _, tt := range []struct {
		err                  error
		unreachable, refused bool
	}{
		{driver.ErrBadConn, true, false},
		{fmt.Errorf("x: %w", driver.ErrBadConn), true, false},
		{&net.OpError{Op: "dial", Err: errors.New("x")}, true, false},
		{io.EOF, true, false},
		{io.ErrUnexpectedEOF, true, false},
		{sql.ErrConnDone, true, false},
		{other, true, false},
		{errors.New("syntax error"), false, false},
		{stateError("57P01"), true, false},
		{stateError("57P03"), true, false},
		{stateError("08006"), true, false},
		{stateError("53300"), true, true},
		{stateError("40001"), true, true},
		{stateError("40003"), false, false},
		{stateError("23505"), false, true},
		{stateError("42601"), false, true},
		{stateError("XX000"), false, false},
		{stateError("57014"), false, false},
		{stateError("x"), false, false}, // no SQLSTATE
		{fmt.Errorf("x: %w", stateError("23505")), false, true},
	} {
		require.Equal(t, tt.unreachable, g.unreachable(tt.err), "%v", tt.err)
		require.Equal(t, tt.refused, refused(tt.err), "%v", tt.err)
	}
	require.False(t, refused(nil))
}

// The age of what is known is that of the clock that says more.
func TestAge(t *testing.T) {
	require.Equal(t, time.Hour, elapsed(time.Second, time.Hour), "asleep, or the clock was set forward")
	require.Equal(t, time.Second, elapsed(time.Second, -time.Hour), "the clock was set back")
	now := time.Now()
	require.Equal(t, time.Second, age(now.Add(time.Second), now))
	require.Equal(t, time.Hour, age(now.Round(0).Add(time.Hour), now), "asleep, or the clock was set forward")
	back := now.Add(time.Second).Round(0).Add(-time.Hour)
	require.Negative(t, age(back, now), "without the clock that does not jump")
	require.Positive(t, age(now.AddDate(600, 0, 0), now))
}

// TestEventual takes turns.
func TestEventual(t *testing.T) {
	db, cluster, _ := newFakeDB(t, 3, SQLConfig{Consistency: Eventual})
	put(t, db, 0, 1)
	replicas := cluster.replicas["a"]
	for range 30 {
		require.EqualValues(t, -1, get(t.Context(), t, db, 0), "nothing was replayed")
	}
	for i, r := range replicas {
		require.Len(t, r.statements(), 10)
		require.EqualValues(t, 10, db.Stats()[0].Replicas[i].Reads)
	}
	require.EqualValues(t, 1, get(WithConsistency(t.Context(), Primary), t, db, 0))
	require.EqualValues(t, 1, get(WithConsistency(t.Context(), -9), t, db, 0), "what is none is Primary")
	replicas[1].catchUp()
	var got []int64
	for range 6 {
		got = append(got, get(t.Context(), t, db, 0))
	}
	slices.Sort(got)
	require.Equal(t, []int64{-1, -1, -1, -1, 1, 1}, got)

	// Scatter and transactions go there, too.
	replies, err := ScatterOn(t.Context(), db, []ID{"a"}, Policy{}, "list", nil, scanList)
	require.NoError(t, err)
	require.Len(t, replies, 1)
	require.NoError(t, db.InTx(t.Context(), 0, &sql.TxOptions{ReadOnly: true}, func(tx *Tx[int64]) error {
		_, err := tx.Exec(t.Context(), 0, "put", 0, 1)
		require.ErrorIs(t, err, errReadOnly)
		return nil
	}))
	for range ScatterSorted(t.Context(), db, db.Shards(), Policy{}, "list", nil, scanPair, byFirst) {
		continue
	}
	require.EqualValues(t, 1, db.Stats()[0].PrimaryReads+db.Stats()[1].PrimaryReads-1)
}

// Replicas that cannot be reached.
func TestFallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, cluster, _ := newFakeDB(t, 3, SQLConfig{Consistency: Eventual})
		put(t, db, 0, 1)
		replicas := cluster.replicas["a"]
		reads := func() (n []int64) {
			for _, r := range db.Stats()[0].Replicas {
				n = append(n, r.Reads)
			}
			return append(n, db.Stats()[0].PrimaryReads)
		}
		for _, op := range []string{"connect", "query", "next"} {
			for _, r := range replicas {
				r.catchUp()
				r.failAt(driver.ErrBadConn, op)
			}
			if op != "connect" { // of a connection that is there already
				require.Equal(t, int64(1), get(t.Context(), t, db, 0))
			} else {
				for _, r := range cluster.groups["a"].Replicas {
					r.DB.SetMaxIdleConns(-1)
				}
				require.Equal(t, int64(1), get(t.Context(), t, db, 0))
			}
			for _, r := range replicas {
				r.setFail(nil)
			}
			for _, r := range cluster.groups["a"].Replicas {
				r.DB.SetMaxIdleConns(2)
			}
			time.Sleep(setAside)
		}
		n := reads()
		require.EqualValues(t, 6, n[0]+n[1]+n[2], "two of them each time")
		require.EqualValues(t, 3, n[3], "then the primary")

		// One that has failed is left alone for a while.
		replicas[0].stop()
		for range 30 {
			require.Equal(t, int64(1), get(t.Context(), t, db, 0))
		}
		require.EqualValues(t, n[0]+1, reads()[0])
		require.EqualValues(t, 3, reads()[3])
		require.EqualValues(t, n[0]+1, db.Stats()[0].Replicas[0].Failures)
		time.Sleep(setAside)
		replicas[0].setFail(nil)
		for range 30 {
			require.Equal(t, int64(1), get(t.Context(), t, db, 0))
		}
		require.EqualValues(t, n[0]+11, reads()[0])

		// An error that is an answer is one, and says nothing of the replica.
		before := reads()
		_, err := db.Query(t.Context(), 0, "nonsense")
		require.EqualError(t, err, `shard "a": syntax error in "nonsense"`)
		require.Equal(t, before[3], reads()[3])
		require.EqualValues(t, n[0]+1, db.Stats()[0].Replicas[0].Failures)
		// With a context that has ended nothing else is tried.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for _, r := range replicas {
			r.hang()
		}
		before = reads()
		_, err = db.Query(ctx, 0, "get", 0)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, before[3], reads()[3])
		require.EqualValues(t, n[0]+1, db.Stats()[0].Replicas[0].Failures)
		// Nor with rows that have begun.
		for _, r := range replicas {
			r.failAt(driver.ErrBadConn, "next")
		}
		rows, err := db.Query(t.Context(), 0, "list")
		require.NoError(t, err)
		require.False(t, rows.Next())
		require.ErrorIs(t, rows.Err(), driver.ErrBadConn)
		require.NoError(t, rows.Close())
		// A write is not tried twice.
		for _, r := range replicas {
			r.setFail(nil)
		}
		a := cluster.primaries["a"]
		var tries atomic.Int32
		a.setFail(func(_ context.Context, op string) error {
			if op == "exec" || op == "begin" {
				tries.Add(1)
				return io.ErrUnexpectedEOF
			}
			return nil
		})
		_, err = db.Exec(t.Context(), 0, "put", 0, 2)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		require.ErrorIs(t, db.InTx(t.Context(), 0, nil, func(*Tx[int64]) error { return nil }), io.ErrUnexpectedEOF)
		require.EqualValues(t, 2, tries.Load())
		a.setFail(nil)
	})
}

// Reads of writes wait for a replica, and no longer than they should.
func TestReadYourWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, cluster, _ := newFakeDB(t, 2, SQLConfig{Consistency: ReadYourWrites, MaxWait: time.Second})
		a, replicas := cluster.primaries["a"], cluster.replicas["a"]
		const either = -2
		ctx := t.Context()
		write := func(ctx context.Context, v int64) {
			t.Helper()
			_, err := db.Exec(ctx, 0, "put", 0, v)
			require.NoError(t, err)
		}
		// from returns how long a read takes, and whether it comes from the primary.
		from := func(ctx context.Context, want int64) (took time.Duration, primary bool) {
			t.Helper()
			before, start := db.Stats()[0].PrimaryReads, time.Now()
			if got := get(ctx, t, db, 0); want != either {
				require.Equal(t, want, got)
			}
			return time.Since(start), db.Stats()[0].PrimaryReads > before
		}
		mine := WithSession(ctx)
		require.Equal(t, mine, WithSession(mine))
		_, primary := from(ctx, -1)
		require.True(t, primary, "in no session")
		_, primary = from(mine, -1)
		require.False(t, primary)

		write(mine, 1)
		go func() {
			time.Sleep(300 * time.Millisecond)
			replicas[1].catchUp()
		}()
		took, primary := from(mine, 1)
		require.False(t, primary)
		require.InDelta(t, 300, took.Milliseconds(), 20)
		took, primary = from(mine, 1)
		require.False(t, primary)
		require.Zero(t, took, "it is known")
		_, primary = from(WithSession(mine), 1)
		require.False(t, primary)

		write(mine, 2)
		took, primary = from(mine, 2)
		require.True(t, primary)
		require.Equal(t, time.Second, took)
		took, primary = from(mine, 2)
		require.True(t, primary)
		require.Zero(t, took, "in vain")
		_, primary = from(WithSession(ctx), either)
		require.False(t, primary, "another session has written nothing")
		time.Sleep(time.Minute)
		took, _ = from(mine, 2)
		require.Zero(t, took)
		// It moves, if not far enough, so it is worth waiting for.
		time.Sleep(time.Second)
		replicas[0].applied = 1
		took, primary = from(mine, 2)
		require.True(t, primary)
		require.Equal(t, time.Second, took)
		replicas[0].catchUp()
		took, primary = from(mine, 2)
		require.False(t, primary)
		require.Zero(t, took)

		// Who gives up is not kept.
		write(mine, 3)
		short, cancel := context.WithTimeout(mine, 100*time.Millisecond)
		defer cancel()
		start := time.Now()
		require.ErrorIs(t, db.QueryRow(short, 0, "get", 0).Scan(), context.DeadlineExceeded)
		require.Equal(t, 100*time.Millisecond, time.Since(start))

		// A write whose position cannot be told is read from the primary, until a later one can.
		for _, r := range replicas {
			r.catchUp()
		}
		from(mine, 3)
		a.failAt(io.EOF, "written")
		write(mine, 4)
		for _, r := range replicas {
			r.catchUp()
		}
		for range 3 {
			_, primary = from(mine, 4)
			require.True(t, primary)
		}
		a.setFail(nil)
		_, primary = from(mine, 4)
		require.True(t, primary)
		_, primary = from(mine, 4)
		require.False(t, primary, "it has told")
		write(mine, 5)
		for _, r := range replicas {
			r.catchUp()
		}
		_, primary = from(mine, 5)
		require.False(t, primary)
		// One that hangs is not waited for long.
		a.setFail(func(ctx context.Context, op string) error {
			if op == "written" {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		})
		start = time.Now()
		write(mine, 6)
		require.Equal(t, time.Second, time.Since(start))
		_, primary = from(mine, 6)
		require.True(t, primary)
		a.setFail(nil)
		// A write that may have happened.
		write(mine, 7)
		a.lose = func() error { return io.ErrUnexpectedEOF }
		_, err := db.Exec(mine, 0, "put", 0, 8)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		for _, r := range replicas {
			r.applied = 7 + 1 // what came before it
		}
		_, primary = from(mine, 8)
		require.True(t, primary)
		// One that was refused: what came before it in the same text may have been committed.
		a.lose = nil
		for _, row := range []bool{false, true} {
			write(mine, 9)
			for _, r := range replicas {
				r.catchUp()
			}
			_, primary = from(mine, 9)
			require.False(t, primary)
			a.failAt(stateError("23505"), "exec", "query")
			if row {
				err = db.ExecRow(mine, 0, "put", 0, 10).Scan()
			} else {
				_, err = db.Exec(mine, 0, "put", 0, 10)
			}
			require.ErrorIs(t, err, stateError("23505"))
			a.setFail(nil)
			_, primary = from(mine, 9)
			require.True(t, primary)
		}

		// In a transaction, and with a row.
		require.NoError(t, db.InTx(mine, 0, nil, func(tx *Tx[int64]) error {
			_, err := tx.Exec(mine, 0, "put", 0, 11)
			return err
		}))
		require.Equal(t, int64(11), get(mine, t, db, 0))
		var k int64
		require.NoError(t, db.ExecRow(mine, 0, "put", 0, 12).Scan(&k))
		require.Equal(t, int64(12), get(mine, t, db, 0))
		for _, r := range replicas {
			r.catchUp()
		}
		_, primary = from(mine, 12)
		require.False(t, primary)
		a.failAt(io.EOF, "commit")
		require.Error(t, db.InTx(mine, 0, nil, func(tx *Tx[int64]) error { return nil }))
		_, primary = from(mine, 12)
		require.True(t, primary)
		a.setFail(nil)
		// A read that is all that was done in a transaction leaves no trace.
		other := WithSession(ctx)
		require.NoError(t, db.InTx(other, 0, &sql.TxOptions{ReadOnly: true}, func(tx *Tx[int64]) error { return nil }))
		require.Empty(t, SessionToken(other))
	})
}

// A part moves to a shard whose replica does not have it yet.
func TestReadYourWritesMoved(t *testing.T) {
	for _, there := range []bool{false, true} { // whether the session has written in that shard, too
		synctest.Test(t, func(t *testing.T) {
			db, cluster, router := newFakeDB(t, 1, SQLConfig{Consistency: ReadYourWrites, MaxWait: time.Millisecond})
			from, to := ID("a"), ID("b")
			router.place(0, Placement{Shard: from, Part: 7, Epoch: 5})
			router.place(1, Placement{Shard: to, Part: 8, Epoch: 9})
			mine := WithSession(t.Context())
			keys := []int64{0}
			if there {
				keys = append(keys, 1)
			}
			for _, k := range keys {
				_, err := db.Exec(mine, k, "put", k, 1)
				require.NoError(t, err)
			}
			cluster.replicas[to][0].catchUp()
			router.place(0, Placement{Shard: from, Part: 7, Epoch: 10, State: Fenced})
			_, err := cluster.groups[to].Primary.Exec("put", 0, 1)
			require.NoError(t, err)
			router.place(0, Placement{Shard: to, Part: 7, Epoch: 11})

			next, err := WithSessionToken(t.Context(), SessionToken(mine))
			require.NoError(t, err)
			for _, ctx := range []context.Context{mine, next} {
				for range 2 {
					require.Equal(t, int64(1), get(ctx, t, db, 0))
				}
			}
			require.EqualValues(t, 4, db.Stats()[1].PrimaryReads)
			cluster.replicas[to][0].catchUp()
			time.Sleep(time.Second)
			require.Equal(t, int64(1), get(mine, t, db, 0))
			require.EqualValues(t, 4, db.Stats()[1].PrimaryReads, "then its replica will do")
			require.Equal(t, int64(-1), get(WithSession(t.Context()), t, db, 4), "who has written nothing reads from any")
		})
	}
}

// A mapRouter has a topology.
type mapRouter struct {
	*fakeRouter
	topology *Topology
}

func (r *mapRouter) Topology() *Topology { return r.topology }

// Scatter, which has no placements, goes by the topology.
func TestScatterMoved(t *testing.T) {
	db, cluster, router := newFakeDB(t, 1, SQLConfig{Consistency: ReadYourWrites, MaxWait: time.Millisecond})
	mapped := &mapRouter{router, nil}
	db.router = mapped
	mine := WithSession(t.Context())
	_, err := db.Exec(mine, 0, "put", 0, 1)
	require.NoError(t, err)
	_, err = cluster.groups["b"].Primary.Exec("put", 0, 1)
	require.NoError(t, err)
	for _, epoch := range []uint64{0, 1, 2, 2} {
		if epoch > 0 {
			mapped.topology = &Topology{c: TopologyConfig{Epoch: epoch}}
		}
		before := db.Stats()[1].PrimaryReads
		replies, err := ScatterOn(mine, db, []ID{"b"}, Policy{}, "list", nil, scanList)
		require.NoError(t, err)
		n := 0
		for range ScatterSorted(mine, db, []ID{"b"}, Policy{}, "list", nil, scanPair, byFirst) {
			n++
		}
		if epoch < 2 {
			require.Equal(t, before, db.Stats()[1].PrimaryReads)
		} else {
			require.Len(t, replies[0].Value, 1)
			require.Equal(t, 1, n)
		}
	}
}

// What is known of a replica is not believed for ever: when it has crashed, it can begin further back.
func TestLagCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []Consistency{ReadYourWrites, BoundedStaleness(time.Hour)} {
			db, cluster, _ := newFakeDB(t, 1, SQLConfig{Consistency: c, MaxWait: time.Millisecond, LagCache: time.Second})
			r := cluster.replicas["a"][0]
			mine := WithSession(t.Context())
			_, err := db.Exec(mine, 0, "put", 0, 1)
			require.NoError(t, err)
			r.catchUp()
			require.Equal(t, int64(1), get(mine, t, db, 0))
			require.EqualValues(t, 1, db.Stats()[0].Replicas[0].Reads)
			r.mu.Lock()
			r.applied = 0
			r.mu.Unlock()
			time.Sleep(time.Second + 1)
			require.Equal(t, int64(1), get(mine, t, db, 0))
			require.EqualValues(t, 1, db.Stats()[0].PrimaryReads)
		}
		// Nor if goroutines ask, and have no answer yet.
		db, cluster, _ := newFakeDB(t, 1, SQLConfig{Consistency: ReadYourWrites, ProbeInterval: 20 * time.Millisecond, LagCache: 100 * time.Millisecond, MaxWait: time.Millisecond})
		r := cluster.replicas["a"][0]
		mine := WithSession(t.Context())
		_, err := db.Exec(mine, 0, "put", 0, 1)
		require.NoError(t, err)
		r.catchUp()
		time.Sleep(time.Second)
		require.Equal(t, int64(1), get(mine, t, db, 0))
		require.EqualValues(t, 1, db.Stats()[0].Replicas[0].Reads)
		r.mu.Lock()
		r.applied = 0
		r.mu.Unlock()
		r.setFail(func(ctx context.Context, op string) error {
			if op == "replayed" {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		})
		time.Sleep(200 * time.Millisecond)
		require.NoError(t, db.Stats()[0].Replicas[0].ProbeErr)
		require.Equal(t, int64(1), get(mine, t, db, 0))
	})
}

// While a replica is read all the time, one read in half of LagCache asks how far it is, and no other
// waits for that.
func TestRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := newFakeCluster(t, 1, "a")
		b := &fakeBalancer{names: []string{"r0"}}
		g := cluster.groups["a"]
		g.Balancer = b
		cluster.groups["a"] = g
		db, err := OpenSQL(&fakeRouter{ids: []ID{"a"}}, cluster.groups, SQLConfig{Consistency: BoundedStaleness(time.Second), MaxWait: 100 * time.Millisecond, LagCache: 100 * time.Millisecond})
		require.NoError(t, err)
		r := cluster.replicas["a"][0]
		r.setFail(func(_ context.Context, op string) error {
			if op == "replayed" {
				time.Sleep(10 * time.Millisecond)
			}
			return nil
		})
		get(t.Context(), t, db, 0)
		var slow atomic.Int64
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				for range 900 {
					start := time.Now()
					get(t.Context(), t, db, 0)
					if time.Since(start) > 0 {
						slow.Add(1)
					}
					time.Sleep(time.Millisecond)
				}
			})
		}
		wg.Wait()
		require.LessOrEqual(t, slow.Load(), int64(22))
		require.Greater(t, slow.Load(), int64(10))
		require.Zero(t, db.Stats()[0].PrimaryReads)
		// What it finds out then counts at once.
		time.Sleep(200 * time.Millisecond)
		get(t.Context(), t, db, 0)
		time.Sleep(60 * time.Millisecond)
		r.failAt(errNotAReplica, "replayed")
		get(t.Context(), t, db, 0)
		require.EqualValues(t, 1, db.Stats()[0].PrimaryReads)
		require.Equal(t, context.Canceled, b.ended[len(b.ended)-1])
		require.Len(t, b.ended, b.begun)
	})
}

// A caller who goes, or had no time left, is no reason to think badly of a replica that it asks.
func TestCanceledMeasurement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, cluster, _ := newFakeDB(t, 1, SQLConfig{Consistency: ReadYourWrites, MaxWait: time.Second})
		r := cluster.replicas["a"][0]
		mine := WithSession(t.Context())
		_, err := db.Exec(mine, 0, "put", 0, 1)
		require.NoError(t, err)
		r.setFail(func(ctx context.Context, op string) error {
			if op == "replayed" {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		})
		short, cancel := context.WithTimeout(mine, time.Millisecond)
		defer cancel()
		require.ErrorIs(t, db.QueryRow(short, 0, "get", 0).Scan(), context.DeadlineExceeded)
		require.NoError(t, db.Stats()[0].Replicas[0].ProbeErr)
		r.setFail(nil)
		r.catchUp()
		require.Equal(t, int64(1), get(mine, t, db, 0))
		require.EqualValues(t, 1, db.Stats()[0].Replicas[0].Reads)
	})
}

// A position that the primary does not have is waited for only until that is known.
func TestLostPosition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, cluster, _ := newFakeDB(t, 1, SQLConfig{Consistency: ReadYourWrites, MaxWait: time.Second})
		put(t, db, 0, 1)
		cluster.replicas["a"][0].catchUp()
		for _, pos := range []Position{{1, 1, 1 << 60}, {2, 1, 0}, {1, 7, 0}} {
			ctx := sessionWith(t.Context(), map[place]written{{"", "a"}: {pos: pos}})
			start := time.Now()
			before := db.Stats()[0].PrimaryReads
			require.Equal(t, int64(1), get(ctx, t, db, 0))
			require.Less(t, time.Since(start), db.config.LagCache+2*lastPause)
			require.Equal(t, before+1, db.Stats()[0].PrimaryReads)
		}
	})
}

// A replica that cancels a statement in favour of its replication is well.
func TestRecoveryConflict(t *testing.T) {
	db, cluster, _ := newFakeDB(t, 1, SQLConfig{Consistency: Eventual})
	r := cluster.replicas["a"][0]
	put(t, db, 0, 1)
	r.catchUp()
	r.failAt(stateError("40001"), "next")
	require.Equal(t, int64(1), get(t.Context(), t, db, 0))
	r.setFail(nil)
	require.Equal(t, int64(1), get(t.Context(), t, db, 0))
	stats := db.Stats()[0]
	require.EqualValues(t, 1, stats.PrimaryReads)
	require.EqualValues(t, 2, stats.Replicas[0].Reads)
	require.EqualValues(t, 1, stats.Replicas[0].Failures)
}

// Of writes at the same time, none is forgotten because the position of another came later.
func TestSessionMarks(t *testing.T) {
	s := sessionOf(WithSession(t.Context()))
	p := place{"", "a"}
	at := func(n uint64) Position { return Position{1, 1, n} }
	before := s.marks(p)
	s.mark(p, 0) // a write that was acknowledged behind the position that is about to come
	s.note(p, at(5), epochs{}, before)
	_, _, unknown := s.need(p, 0)
	require.True(t, unknown)
	s.note(p, at(6), epochs{}, s.marks(p))
	pos, all, unknown := s.need(p, 0)
	require.Equal(t, at(6), pos)
	require.False(t, all || unknown)
	s.note(p, at(4), epochs{}, s.marks(p)) // an answer that comes late
	pos, _, _ = s.need(p, 0)
	require.Equal(t, at(6), pos)
	s.note(p, Position{1, 2, 3}, epochs{}, s.marks(p)) // of the next primary
	pos, _, _ = s.need(p, 0)
	require.Equal(t, Position{1, 2, 3}, pos)
	s.note(p, Position{7, 2, 3}, epochs{}, s.marks(p)) // of another database
	_, _, unknown = s.need(p, 0)
	require.True(t, unknown)
	_, all, _ = s.need(place{"", "b"}, 0)
	require.True(t, all)
}

func TestBoundedStaleness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, cluster, _ := newFakeDB(t, 1, SQLConfig{Consistency: BoundedStaleness(10 * time.Second), MaxWait: time.Second})
		a, r := cluster.primaries["a"], cluster.replicas["a"][0]
		from := func(want int64) (took time.Duration, primary bool) {
			t.Helper()
			before, start := db.Stats()[0].PrimaryReads, time.Now()
			require.Equal(t, want, get(t.Context(), t, db, 0))
			return time.Since(start), db.Stats()[0].PrimaryReads > before
		}
		put(t, db, 0, 1)
		go func() {
			time.Sleep(200 * time.Millisecond)
			r.catchUp()
		}()
		took, primary := from(1)
		require.False(t, primary, "it waits until the replica has what the primary had")
		require.InDelta(t, 200, took.Milliseconds(), 20)
		put(t, db, 0, 2)
		start := time.Now()
		for time.Since(start) < 9*time.Second {
			took, primary = from(1)
			require.False(t, primary)
			require.Zero(t, took)
			time.Sleep(50 * time.Millisecond)
		}
		// Now what it lacks is too old; and that is known without waiting, as it was asked all the
		// time.
		time.Sleep(time.Second)
		for range 10 {
			took, primary = from(2)
			require.True(t, primary)
			require.Zero(t, took)
			time.Sleep(time.Second)
		}
		lag := db.Stats()[0].Replicas[0].Lag
		require.Greater(t, lag, 19*time.Second)
		require.Less(t, lag, 21*time.Second)
		// From time to time only, it can be waited for, but not if it stands still.
		time.Sleep(time.Hour)
		took, primary = from(2)
		require.True(t, primary)
		require.LessOrEqual(t, took, time.Second)
		r.catchUp()
		time.Sleep(db.config.LagCache)
		took, primary = from(2)
		require.False(t, primary)
		require.Zero(t, took)
		// Without the primary, nobody knows, after a while.
		a.failAt(io.EOF, "written")
		time.Sleep(9 * time.Second)
		_, primary = from(2)
		require.False(t, primary)
		time.Sleep(2 * time.Second)
		took, primary = from(2)
		require.True(t, primary)
		require.Zero(t, took)
		require.ErrorIs(t, db.Stats()[0].ProbeErr, io.EOF)
		a.setFail(nil)
		r.catchUp() // with the heartbeats
		_, primary = from(2)
		require.False(t, primary)
		require.NoError(t, db.Stats()[0].ProbeErr)
		// A replica that was promoted is none.
		r.mu.Lock()
		r.primary = nil
		r.mu.Unlock()
		time.Sleep(time.Minute)
		_, primary = from(2)
		require.True(t, primary)
		require.ErrorIs(t, db.Stats()[0].Replicas[0].ProbeErr, errNotAReplica)
		// What cannot be told so exactly.
		require.Equal(t, int64(2), get(WithConsistency(t.Context(), BoundedStaleness(1)), t, db, 0))
	})
}

// A primary that is idle is written to only if a replica is behind it, and not too often.
func TestHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, cluster, _ := newFakeDB(t, 1, SQLConfig{Consistency: BoundedStaleness(10 * time.Second), MaxWait: 5 * time.Second, Heartbeat: 2 * time.Second})
		a, r := cluster.primaries["a"], cluster.replicas["a"][0]
		beats := func() int64 { return db.Stats()[0].Heartbeats }
		put(t, db, 0, 1)
		r.catchUp()
		for range 100 {
			require.Equal(t, int64(1), get(t.Context(), t, db, 0))
			time.Sleep(time.Second)
		}
		require.Zero(t, beats())
		require.Equal(t, db.Stats()[0].Replicas[0].Reads, int64(100))
		// What a replica lacks is sent with the heartbeat.
		put(t, db, 0, 2)
		a.setFail(func(_ context.Context, op string) error {
			if op == "beat" {
				go r.catchUp()
			}
			return nil
		})
		for range 100 {
			get(t.Context(), t, db, 0)
			time.Sleep(time.Second)
		}
		require.Zero(t, db.Stats()[0].PrimaryReads)
		require.Positive(t, beats())
		require.LessOrEqual(t, beats(), int64(2))
		// A replica that is away is no reason for more than one in two seconds.
		a.failAt(errors.New("no"), "beat")
		put(t, db, 0, 3)
		start, before := time.Now(), beats()
		for time.Since(start) < time.Minute {
			get(t.Context(), t, db, 0)
			time.Sleep(10 * time.Millisecond)
		}
		require.Greater(t, beats()-before, int64(20))
		require.LessOrEqual(t, beats()-before, int64(31))
		require.EqualError(t, db.Stats()[0].HeartbeatErr, "no")
	})
}

// A replica that hangs delays one of those who ask, and not for long.
func TestHangingReplica(t *testing.T) {
	for _, c := range []Consistency{ReadYourWrites, BoundedStaleness(time.Minute)} {
		t.Run(c.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				db, cluster, _ := newFakeDB(t, 2, SQLConfig{Consistency: c, MaxWait: time.Second})
				mine := WithSession(t.Context())
				_, err := db.Exec(mine, 0, "put", 0, 1)
				require.NoError(t, err)
				cluster.replicas["a"][0].setFail(func(ctx context.Context, op string) error {
					if op == "replayed" {
						<-ctx.Done()
						return ctx.Err()
					}
					return nil
				})
				cluster.replicas["a"][1].catchUp()
				var slow, sum atomic.Int64
				var wg sync.WaitGroup
				for range 100 {
					wg.Go(func() {
						start := time.Now()
						require.Equal(t, int64(1), get(mine, t, db, 0))
						sum.Add(int64(time.Since(start)))
						if time.Since(start) > 100*time.Millisecond {
							slow.Add(1)
						}
					})
				}
				wg.Wait()
				require.LessOrEqual(t, slow.Load(), int64(1))
				require.LessOrEqual(t, sum.Load(), int64(2*time.Second))
				require.Error(t, db.Stats()[0].Replicas[0].ProbeErr)
			})
		})
	}
}

// Many who wait ask as often as one does.
func TestOneMeasurement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, cluster, _ := newFakeDB(t, 1, SQLConfig{Consistency: ReadYourWrites, MaxWait: time.Second})
		r := cluster.replicas["a"][0]
		var asked, now, most atomic.Int64
		r.setFail(func(_ context.Context, op string) error {
			if op == "replayed" {
				asked.Add(1)
				most.Store(max(most.Load(), now.Add(1)))
				time.Sleep(time.Millisecond)
				now.Add(-1)
			}
			return nil
		})
		mine := WithSession(t.Context())
		_, err := db.Exec(mine, 0, "put", 0, 1)
		require.NoError(t, err)
		go func() {
			time.Sleep(200 * time.Millisecond)
			r.catchUp()
		}()
		var wg sync.WaitGroup
		for i := range 1000 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 10 * time.Microsecond)
				require.Equal(t, int64(1), get(mine, t, db, 0))
			})
		}
		wg.Wait()
		require.EqualValues(t, 1, most.Load(), "at the same time")
		require.LessOrEqual(t, asked.Load(), int64(110))
		require.EqualValues(t, 1000, db.Stats()[0].Replicas[0].Reads)
	})
}

// Many who need to know how old everything is ask the primary once.
func TestOneSample(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, cluster, _ := newFakeDB(t, 1, SQLConfig{Consistency: BoundedStaleness(time.Minute), MaxWait: time.Second})
		put(t, db, 0, 1)
		cluster.replicas["a"][0].catchUp()
		var asked atomic.Int64
		cluster.primaries["a"].setFail(func(_ context.Context, op string) error {
			if op == "written" {
				asked.Add(1)
				time.Sleep(10 * time.Millisecond)
			}
			return nil
		})
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() { require.Equal(t, int64(1), get(t.Context(), t, db, 0)) })
		}
		wg.Wait()
		require.EqualValues(t, 1, asked.Load())
		require.EqualValues(t, 100, db.Stats()[0].Replicas[0].Reads)
	})
}

// With an interval, goroutines ask, and reads find everything known; a database that hangs holds up no
// other.
func TestPolling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := newFakeCluster(t, 2, "a")
		db, err := OpenSQL(&fakeRouter{ids: []ID{"a"}}, cluster.groups, SQLConfig{Consistency: BoundedStaleness(2 * time.Second), ProbeInterval: 500 * time.Millisecond})
		require.NoError(t, err)
		r0, r1 := cluster.replicas["a"][0], cluster.replicas["a"][1]
		put(t, db, 0, 1)
		r0.catchUp()
		r1.catchUp()
		time.Sleep(5 * time.Second)
		for range 20 {
			start := time.Now()
			require.Equal(t, int64(1), get(t.Context(), t, db, 0))
			require.Zero(t, time.Since(start))
		}
		for _, r := range db.Stats()[0].Replicas {
			require.EqualValues(t, 10, r.Reads)
			require.LessOrEqual(t, r.Lag, time.Second)
		}
		r0.hang()
		time.Sleep(5 * time.Second)
		for range 20 {
			require.Equal(t, int64(1), get(t.Context(), t, db, 0))
		}
		require.EqualValues(t, 10, db.Stats()[0].Replicas[0].Reads)
		require.ErrorIs(t, db.Stats()[0].Replicas[0].ProbeErr, context.DeadlineExceeded)
		require.EqualValues(t, 30, db.Stats()[0].Replicas[1].Reads)
		require.NoError(t, db.Close())
		require.NoError(t, db.Close())
		require.Equal(t, int64(1), get(t.Context(), t, db, 0), "it can still be used")
	})
}

// A fakeBalancer returns what it is told, in turn.
type fakeBalancer struct {
	mu     sync.Mutex
	names  []string
	err    error
	hashes map[uint64]int
	begun  int
	ended  []error
	panics bool
}

func (b *fakeBalancer) Choose(hash uint64) (string, func(error), error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.panics {
		panic("oh")
	}
	if b.err != nil {
		return "", nil, b.err
	}
	if b.hashes == nil {
		b.hashes = map[uint64]int{}
	}
	b.hashes[hash]++
	name := b.names[b.begun%len(b.names)]
	b.begun++
	once := false
	return name, func(err error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		if once {
			panic("twice")
		}
		once = true
		b.ended = append(b.ended, err)
	}, nil
}

func TestBalancer(t *testing.T) {
	cluster := newFakeCluster(t, 3, "a", "b")
	b := &fakeBalancer{names: []string{"r0", "r0", "r2"}}
	for id, g := range cluster.groups {
		g.Balancer = b
		cluster.groups[id] = g
	}
	router := &fakeRouter{ids: []ID{"a", "b"}}
	db, err := OpenSQL(router, cluster.groups, SQLConfig{Consistency: Eventual})
	require.NoError(t, err)
	ctx := t.Context()
	reads := func() (n []int64) {
		for _, r := range db.Stats()[0].Replicas {
			n = append(n, r.Reads)
		}
		return n
	}
	for range 30 {
		get(ctx, t, db, 0)
	}
	require.Equal(t, []int64{20, 0, 10}, reads())
	require.Len(t, b.hashes, 1, "one part")
	router.place(2, Placement{Shard: "a", Part: 7})
	get(ctx, t, db, 2)
	get(ctx, t, db, 1)
	require.Len(t, b.hashes, 3)
	require.Len(t, b.ended, 32)
	for _, err := range b.ended {
		require.NoError(t, err)
	}

	ends := func(want ...error) {
		t.Helper()
		require.Equal(t, b.begun, len(b.ended), "each has ended")
		require.Equal(t, want, b.ended[len(b.ended)-len(want):])
	}
	// An answer that is an error is none of the replica's.
	_, err = db.Query(ctx, 0, "nonsense")
	require.Error(t, err)
	ends(nil)
	// One that is not there is; what is returned again is not taken.
	b.names = []string{"r1"}
	cluster.replicas["a"][1].stop()
	get(ctx, t, db, 0)
	ends(driver.ErrBadConn, context.Canceled, context.Canceled, context.Canceled, context.Canceled, context.Canceled, context.Canceled)
	get(ctx, t, db, 0)
	ends(context.Canceled, context.Canceled, context.Canceled, context.Canceled, context.Canceled, context.Canceled)
	cluster.replicas["a"][1].setFail(nil)
	// A name that is none, and an error.
	b.names = []string{"x"}
	before := reads()
	get(ctx, t, db, 0)
	ends(context.Canceled)
	b.err = errors.New("none")
	get(ctx, t, db, 0)
	after := reads()
	require.EqualValues(t, before[0]+before[2]+2, after[0]+after[2])
	b.err = nil

	// To the end of what is read.
	b.names = []string{"r0"}
	require.NoError(t, db.InTx(ctx, 0, &sql.TxOptions{ReadOnly: true}, func(*Tx[int64]) error {
		require.Equal(t, b.begun, len(b.ended)+1)
		return nil
	}))
	ends(nil)
	mine := errors.New("mine")
	require.Equal(t, mine, db.InTx(ctx, 0, &sql.TxOptions{ReadOnly: true}, func(*Tx[int64]) error { return mine }))
	ends(nil)
	require.Panics(t, func() {
		_ = db.InTx(ctx, 0, &sql.TxOptions{ReadOnly: true}, func(*Tx[int64]) error { panic("oh") })
	})
	ends(context.Canceled)
	_, err = ScatterOn(ctx, db, []ID{"a"}, Policy{}, "list", nil, func(*sql.Rows) (int, error) {
		require.Equal(t, b.begun, len(b.ended)+1)
		return 0, mine
	})
	require.ErrorIs(t, err, mine)
	ends(nil)
	require.Panics(t, func() {
		_, _ = ScatterOn(ctx, db, []ID{"a"}, Policy{}, "list", nil, func(*sql.Rows) (int, error) { panic("oh") })
	})
	ends(context.Canceled)
	cluster.primaries["a"].write([2]int64{0, 1}, [2]int64{2, 1})
	cluster.replicas["a"][0].catchUp()
	for range ScatterSorted(ctx, db, []ID{"a"}, Policy{}, "list", nil, scanPair, byFirst) {
		require.Equal(t, b.begun, len(b.ended)+1)
	}
	ends(nil)
	cluster.replicas["a"][0].failAt(io.ErrUnexpectedEOF, "next")
	for _, err := range ScatterSorted(ctx, db, []ID{"a"}, Policy{}, "list", nil, scanPair, byFirst) {
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	}
	ends(io.ErrUnexpectedEOF)
	cluster.replicas["a"][0].setFail(nil)

	// One that panics leaves everything as it was.
	b.panics = true
	require.Panics(t, func() { get(ctx, t, db, 0) })
	b.panics = false
	get(ctx, t, db, 0)
	ends(nil)
}

// What a read waits for before it is sent to a replica is not taken for the replica's time.
func TestBalancerTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := newFakeCluster(t, 1, "a")
		g := cluster.groups["a"]
		b := &timingBalancer{}
		g.Balancer = b
		cluster.groups["a"] = g
		db, err := OpenSQL(&fakeRouter{ids: []ID{"a"}}, cluster.groups, SQLConfig{Consistency: BoundedStaleness(200 * time.Millisecond), MaxWait: time.Second})
		require.NoError(t, err)
		put(t, db, 0, 1)
		cluster.replicas["a"][0].catchUp()
		slow := func(_ context.Context, op string) error {
			if op == "written" || op == "replayed" {
				time.Sleep(20 * time.Millisecond)
			}
			return nil
		}
		cluster.primaries["a"].setFail(slow)
		cluster.replicas["a"][0].setFail(slow)
		start := time.Now()
		for range 20 {
			get(t.Context(), t, db, 0)
			time.Sleep(55 * time.Millisecond)
		}
		require.Greater(t, time.Since(start), 20*(55+20)*time.Millisecond, "it was asked each time")
		require.Zero(t, db.Stats()[0].PrimaryReads)
		require.GreaterOrEqual(t, b.used, 20)
		require.Zero(t, b.took)
	})
}

// A timingBalancer measures the replica r0.
type timingBalancer struct {
	took time.Duration // the most
	used int
}

func (b *timingBalancer) Choose(uint64) (string, func(error), error) {
	start := time.Now()
	return "r0", func(err error) {
		if err == nil {
			b.took = max(b.took, time.Since(start))
			b.used++
		}
	}, nil
}

// A nilBalancer does not want to know how it ends.
type nilBalancer string

func (b nilBalancer) Choose(uint64) (string, func(error), error) { return string(b), nil, nil }

func TestBalancerNil(t *testing.T) {
	for _, name := range []nilBalancer{"r1", "x"} {
		cluster := newFakeCluster(t, 2, "a")
		g := cluster.groups["a"]
		g.Balancer = name
		cluster.groups["a"] = g
		db, err := OpenSQL(&fakeRouter{ids: []ID{"a"}}, cluster.groups, SQLConfig{Consistency: Eventual})
		require.NoError(t, err)
		for range 4 {
			require.Equal(t, int64(-1), get(t.Context(), t, db, 0))
		}
		require.EqualValues(t, map[nilBalancer]int{"r1": 4, "x": 2}[name], db.Stats()[0].Replicas[1].Reads)
	}
}

// Reads that have waited in vain, for a pause or an answer, and not those whose callers have gone.
func TestTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, hangs := range []bool{false, true} {
			db, cluster, _ := newFakeDB(t, 1, SQLConfig{Consistency: ReadYourWrites, MaxWait: time.Second})
			mine := WithSession(t.Context())
			_, err := db.Exec(mine, 0, "put", 0, 1)
			require.NoError(t, err)
			if hangs {
				cluster.replicas["a"][0].hang()
			}
			short, cancel := context.WithTimeout(mine, 100*time.Millisecond)
			defer cancel()
			require.ErrorIs(t, db.QueryRow(short, 0, "get", 0).Scan(), context.DeadlineExceeded)
			require.Zero(t, db.Stats()[0].Timeouts)
			waits := db.Stats()[0].Waits
			_, err = db.Exec(mine, 0, "put", 0, 2)
			require.NoError(t, err)
			require.Equal(t, int64(2), get(mine, t, db, 0))
			require.EqualValues(t, 1, db.Stats()[0].Timeouts)
			require.Equal(t, waits+1, db.Stats()[0].Waits)
		}
	})
}

// The time of what is known is that from before the question: what has been written since need not be in
// the answer.
func TestTimeOfAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, cluster, _ := newFakeDB(t, 1, SQLConfig{MaxWait: time.Second})
		g := db.groups["a"]
		r := g.replicas[0]
		slow := func(_ context.Context, op string) error {
			if op == "told" {
				time.Sleep(100 * time.Millisecond)
			}
			return nil
		}
		cluster.primaries["a"].setFail(slow)
		cluster.replicas["a"][0].setFail(slow)
		start := time.Now()
		require.True(t, g.sample(t.Context(), t.Context()))
		require.Equal(t, 100*time.Millisecond, time.Since(start))
		require.Equal(t, start, g.samples[0].at)

		start = time.Now()
		require.True(t, g.askIfFree(t.Context(), t.Context(), r))
		k := r.known.Load()
		require.Equal(t, start, k.at)
		require.Equal(t, start.Add(100*time.Millisecond), k.unmoved)
		cluster.replicas["a"][0].setFail(func(ctx context.Context, op string) error {
			if op == "told" {
				_ = slow(ctx, op)
				return errNotAReplica
			}
			return nil
		})
		start = time.Now()
		require.True(t, g.askIfFree(t.Context(), t.Context(), r))
		require.Equal(t, start, r.known.Load().at)
		require.Error(t, r.known.Load().err)

		// A write that is acknowledged while the position is on its way.
		s := sessionOf(WithSession(t.Context()))
		cluster.primaries["a"].setFail(func(_ context.Context, op string) error {
			if op == "told" {
				s.mark(g.place, 1)
			}
			return nil
		})
		for range 2 { // also if there is an older one
			require.True(t, g.tell(t.Context(), epochs{1, 1}, s))
			_, _, unknown := s.need(g.place, 1)
			require.True(t, unknown)
		}
	})
}

// A probe that panics leaves nobody waiting.
func TestProbePanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, cluster, _ := newFakeDB(t, 1, SQLConfig{Consistency: BoundedStaleness(time.Second), MaxWait: time.Second})
		a, r := cluster.primaries["a"], cluster.replicas["a"][0]
		mine := WithSession(t.Context())
		oh := func(op string) func(context.Context, string) error {
			return func(_ context.Context, o string) error {
				if o == op {
					panic("oh")
				}
				return nil
			}
		}
		a.setFail(oh("written"))
		require.Panics(t, func() { get(mine, t, db, 0) })
		require.Panics(t, func() { _, _ = db.Exec(mine, 0, "put", 0, 1) })
		a.setFail(nil)
		require.Equal(t, int64(1), get(WithConsistency(mine, ReadYourWrites), t, db, 0), "it was written")
		r.setFail(oh("replayed"))
		require.Panics(t, func() { get(mine, t, db, 0) })
		r.setFail(nil)
		r.catchUp()
		require.Equal(t, int64(1), get(mine, t, db, 0))
		require.EqualValues(t, 1, db.Stats()[0].Replicas[0].Reads)
	})
}

// The samples of a primary that is asked all the time reach back, and there are always some that are
// young.
func TestSamples(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &group{c: &SQLConfig{}}
		start := time.Now()
		for i := range uint64(20000) {
			g.learn(sample{time.Now(), Position{1, 1, i}})
			time.Sleep(100 * time.Millisecond)
			require.LessOrEqual(t, len(g.samples), maxSamples)
		}
		now := time.Now()
		require.Equal(t, start, g.samples[0].at)
		for i := range g.samples[1:] {
			before, after := g.samples[i], g.samples[i+1]
			require.True(t, before.at.Before(after.at))
			require.Less(t, after.pos.Offset-before.pos.Offset, uint64(10000))
			// Between any two, less than a quarter of their age has passed.
			if old := age(now, before.at); old > time.Second {
				require.LessOrEqual(t, float64(age(after.at, before.at)), 0.35*float64(old), "%d of %d: %v, %v", i, len(g.samples), old, age(now, after.at))
			}
		}
		n := len(g.samples)
		for range 100 { // of the same position, the first and the last
			g.learn(sample{time.Now(), Position{1, 1, 1 << 40}})
			time.Sleep(time.Second)
		}
		require.LessOrEqual(t, len(g.samples), min(n+2, maxSamples))
		last := slices.Clone(g.samples[len(g.samples)-2:])
		require.Equal(t, 99*time.Second, age(last[1].at, last[0].at))
		g.learn(sample{start, Position{1, 1, 1 << 41}}) // one that comes late
		require.Equal(t, last, g.samples[len(g.samples)-2:])
		g.learn(sample{time.Now(), Position{2, 1, 0}})
		require.Len(t, g.samples, 1, "of another source")
	})
}

func TestChooseAllocs(t *testing.T) {
	if underRace {
		return
	}
	db, cluster, _ := newFakeDB(t, 3, SQLConfig{MaxWait: time.Hour, LagCache: time.Hour})
	for _, r := range cluster.replicas["a"] {
		r.catchUp()
	}
	mine := WithSession(t.Context())
	_, err := db.Exec(mine, 0, "put", 0, 1)
	require.NoError(t, err)
	for _, r := range cluster.replicas["a"] {
		r.catchUp()
	}
	for _, c := range []Consistency{Eventual, ReadYourWrites, BoundedStaleness(time.Hour)} {
		ctx := WithConsistency(mine, c)
		require.Equal(t, int64(1), get(ctx, t, db, 0))
		require.Zero(t, testing.AllocsPerRun(1000, func() {
			g := db.groups["a"]
			n, ok := g.need(ctx, 0)
			if !ok {
				t.Error("the primary")
			}
			var not tried
			if r, _ := g.find(ctx, n, 1, &not); r == nil {
				t.Error("no replica")
			}
		}), "%v", c)
	}
}

// TestReplicaModel compares reads with what they must at least return, while replicas fall behind,
// fail, are asked in vain, and follow another primary, positions cannot be told, and keys move.
func TestReplicaModel(t *testing.T) {
	rounds := 30
	if underRace || testing.Short() {
		rounds = 6
	}
	for range rounds {
		seed := rand.Uint64()
		synctest.Test(t, func(t *testing.T) { replicaModel(t, seed) })
	}
}

func replicaModel(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 0))
	c := SQLConfig{MaxWait: time.Duration(1+rng.IntN(200)) * time.Millisecond, LagCache: time.Duration(1+rng.IntN(300)) * time.Millisecond}
	if rng.IntN(3) == 0 {
		c.ProbeInterval = time.Duration(10+rng.IntN(500)) * time.Millisecond
	}
	cluster := newFakeCluster(t, 3, "a", "b")
	router := &fakeRouter{ids: []ID{"a", "b"}}
	open := func() *DB[int64] {
		db, err := OpenSQL(router, cluster.groups, c)
		require.NoError(t, err)
		return db
	}
	dbs := []*DB[int64]{open(), open()} // two processes
	defer func() {
		for _, db := range dbs {
			db.Close()
		}
	}()
	type ack struct {
		at   time.Time
		k, v int64
	}
	var acks []ack // of all, in order; the values of a key grow
	sessions := make([]context.Context, 3)
	wrote := make([]map[int64]int64, 3) // by session and key
	for i := range sessions {
		sessions[i], wrote[i] = WithSession(t.Context()), map[int64]int64{}
	}
	servers := func() *fakeServer {
		id := router.ids[rng.IntN(2)]
		return cluster.replicas[id][rng.IntN(3)]
	}
	next, epoch := int64(0), uint64(1)
	moved := map[int64]time.Time{}
	failures := []error{driver.ErrBadConn, io.EOF, stateError("40001"), stateError("57P01")}
	for step := range 1500 {
		i, k, db := rng.IntN(3), int64(rng.IntN(4)), dbs[rng.IntN(2)]
		fatal := func(format string, args ...any) {
			t.Helper()
			t.Fatalf("seed %d, step %d: %s", seed, step, fmt.Sprintf(format, args...))
		}
		switch op := rng.IntN(20); {
		case op < 4: // write
			next++
			p, _ := router.Route(t.Context(), k)
			primary := cluster.primaries[p.Shard]
			fault := rng.IntN(12)
			switch fault {
			case 0:
				primary.failAt(io.EOF, "written")
			case 1:
				primary.lose = func() error { return io.ErrUnexpectedEOF }
			case 2:
				primary.failAt(io.EOF, "exec", "commit")
			}
			var err error
			if rng.IntN(2) == 0 {
				_, err = db.Exec(sessions[i], k, "put", k, next)
			} else {
				err = db.InTx(sessions[i], k, nil, func(tx *Tx[int64]) error {
					_, err := tx.Exec(sessions[i], k, "put", k, next)
					return err
				})
			}
			primary.setFail(nil)
			primary.lose = nil
			if (err != nil) != (fault == 1 || fault == 2) {
				fatal("writing: %v", err)
			}
			if err == nil {
				wrote[i][k] = next
				acks = append(acks, ack{time.Now(), k, next})
			}
		case op < 12: // read
			consistency := []Consistency{Primary, Eventual, ReadYourWrites, ReadYourWrites, BoundedStaleness(time.Duration(rng.IntN(2000)) * time.Millisecond)}[rng.IntN(5)]
			start := time.Now()
			least := int64(-1)
			for _, a := range acks {
				// What has moved is where it is now only since then.
				if m := moved[k]; a.at.Before(m) {
					a.at = m
				}
				if a.k == k && (consistency == Primary || consistency > 0 && start.Sub(a.at) > time.Duration(consistency)) {
					least = max(least, a.v)
				}
			}
			if consistency == ReadYourWrites {
				if v, ok := wrote[i][k]; ok {
					least = v
				}
			}
			v := int64(-1)
			err := db.QueryRow(WithConsistency(sessions[i], consistency), k, "get", k).Scan(&v)
			if err != nil && err != sql.ErrNoRows {
				fatal("reading with %v: %v", consistency, err)
			}
			if v < least {
				fatal("session %d reads key %d with %v: got %d, want at least %d", i, k, consistency, v, least)
			}
			if took := time.Since(start); took > c.MaxWait {
				fatal("reading with %v takes %v", consistency, took)
			}
		case op < 14: // a replica moves on
			r := servers()
			r.mu.Lock()
			r.primary.mu.Lock()
			if n := len(r.primary.log) - r.applied; n > 0 && r.timeline == r.primary.timeline {
				r.applied += 1 + rng.IntN(n)
			}
			r.primary.mu.Unlock()
			r.mu.Unlock()
		case op < 15: // or catches up, also with a new primary
			servers().catchUp()
		case op < 16: // or fails
			r := servers()
			switch err := failures[rng.IntN(len(failures))]; rng.IntN(4) {
			case 0:
				r.failAt(err, "query", "next", "connect")
			case 1:
				r.failAt(err, "replayed")
			case 2:
				r.setFail(func(ctx context.Context, op string) error {
					if op == "replayed" {
						<-ctx.Done()
						return ctx.Err()
					}
					return nil
				})
			default:
				r.stop()
			}
		case op < 17:
			servers().setFail(nil)
		case op < 18: // the session goes on elsewhere
			ctx, err := WithSessionToken(t.Context(), SessionToken(sessions[i]))
			if err != nil {
				fatal("%v", err)
			}
			sessions[i] = ctx
		case op == 18 && rng.IntN(4) == 0: // a key moves, which is a part of its own
			p, _ := router.Route(t.Context(), k)
			epoch++
			router.place(k, Placement{Shard: p.Shard, Part: PartID(k), Epoch: epoch, State: Fenced})
			var v int64
			if err := cluster.groups[p.Shard].Primary.QueryRow("get", k).Scan(&v); err != nil {
				v = -1 // there is none yet
			}
			p.Shard = map[ID]ID{"a": "b", "b": "a"}[p.Shard]
			if _, err := cluster.groups[p.Shard].Primary.Exec("put", k, v); err != nil {
				fatal("%v", err)
			}
			epoch += uint64(rng.IntN(2)) // another part may have the next one
			router.place(k, Placement{Shard: p.Shard, Part: PartID(k), Epoch: epoch + 1})
			epoch++
			moved[k] = time.Now()
		case op == 18 && rng.IntN(20) == 0: // another database becomes the primary, and has lost nothing
			p := cluster.primaries[router.ids[rng.IntN(2)]]
			p.mu.Lock()
			p.timeline++
			p.mu.Unlock()
		default:
			time.Sleep(time.Duration(rng.ExpFloat64() * float64(100*time.Millisecond)))
		}
	}
}

// Many sessions at the same time read what they have written, while replicas come and go.
func TestReplicaStress(t *testing.T) {
	steps := 300
	if underRace || testing.Short() {
		steps = 60
	}
	db, cluster, _ := newFakeDB(t, 2, SQLConfig{Consistency: ReadYourWrites, MaxWait: time.Millisecond, LagCache: time.Millisecond})
	var wg, chaos sync.WaitGroup
	stop := make(chan struct{})
	chaos.Go(func() {
		rng := rand.New(rand.NewPCG(1, 1))
		for {
			select {
			case <-stop:
				return
			default:
			}
			r := cluster.replicas[ID(rune('a'+rng.IntN(4)))][rng.IntN(2)]
			switch rng.IntN(5) {
			case 0:
				r.stop()
			case 1:
				r.setFail(nil)
			default:
				r.catchUp()
			}
		}
	})
	for g := range 8 {
		wg.Go(func() {
			ctx := WithSession(t.Context())
			for i := range steps {
				k := int64(8*(i%4) + g)
				if _, err := db.Exec(ctx, k, "put", k, int64(i)); err != nil {
					t.Error(err)
				}
				var inner sync.WaitGroup
				for range 3 {
					inner.Go(func() {
						var v int64
						if err := db.QueryRow(ctx, k, "get", k).Scan(&v); err != nil || v != int64(i) {
							t.Errorf("key %d: got %d, %v, want %d", k, v, err, i)
						}
					})
				}
				inner.Wait()
			}
		})
	}
	wg.Wait()
	close(stop)
	chaos.Wait()
}
