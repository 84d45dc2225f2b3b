package main

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestDirectory has processes that are heard of, are about to end, say that they have left, or say nothing any more.
func TestDirectory(t *testing.T) {
	d := newDirectory()
	start := time.Unix(1000, 0)
	was := d.changed
	differs := func() bool {
		now := d.changed
		defer func() { was = now }()
		return now != was
	}
	d.hear(member{ID: "a", URL: "http://a"}, start)
	require.True(t, differs())
	d.hear(member{ID: "a", URL: "http://a"}, start.Add(time.Second))
	require.False(t, differs())
	d.hear(member{URL: "http://nobody"}, start)
	require.False(t, differs())
	d.hear(member{ID: "a", URL: "http://elsewhere"}, start.Add(time.Second))
	require.True(t, differs())

	// Who is about to end is so for good: beats may overtake each other.
	d.hear(member{ID: "a", URL: "http://elsewhere", Draining: true}, start.Add(time.Second))
	require.True(t, differs())
	d.hear(member{ID: "a", URL: "http://elsewhere"}, start.Add(time.Second))
	require.False(t, differs())
	require.True(t, d.others["a"].Draining)

	// So is who has left, as long as something may still come.
	d.leave("a", start.Add(time.Second))
	require.True(t, differs())
	d.hear(member{ID: "a", URL: "http://elsewhere"}, start.Add(time.Second))
	require.False(t, differs())
	require.Empty(t, d.others)
	d.leave("unknown", start.Add(time.Second))
	require.False(t, differs())

	d.hear(member{ID: "b"}, start)
	d.hear(member{ID: "c"}, start.Add(1))
	differs()
	d.forget(start.Add(leaseTime))
	require.False(t, differs())
	d.forget(start.Add(leaseTime + 1))
	require.True(t, differs())
	require.Len(t, d.others, 1)
	require.Contains(t, d.others, "c")
	d.forget(start.Add(time.Hour))
	require.Empty(t, d.others)
	require.Empty(t, d.left)
}

// TestDraining has a process that is about to end: it is told of links as before, but owns none any more.
func TestDraining(t *testing.T) {
	broker := newBroker(t)
	rows := new(sync.Map)
	a, b := newFakeProcess(t, broker, "a", rows), newFakeProcess(t, broker, "b", rows)
	within := func(condition func() bool) {
		t.Helper()
		require.Eventually(t, condition, 10*time.Second, 10*time.Millisecond)
	}
	within(func() bool { return a.fresh() && b.fresh() && len(a.list()) == 2 })
	b.drain()
	within(func() bool {
		return slices.ContainsFunc(a.list(), func(m member) bool { return m.ID == "b" && m.Draining })
	})
	require.NoError(t, a.insert("one"))
	require.True(t, b.finds("one"))
	require.True(t, b.fresh()) // so it was told
	ofA, ofB := newOwners(a.members, ""), newOwners(b.members, "")
	for _, code := range []string{"abc", "abd", "abe", "abf", "abg", "abh", "abi"} {
		_, other := ofA.of(code)
		require.False(t, other, "%s is asked for where nobody is to ask", code)
		owner, _ := ofB.of(code)
		require.Equal(t, "a", owner.ID)
	}
}
