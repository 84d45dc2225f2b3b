package repo

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/bloom"
	"github.com/sysblocks/sysblocks/consistenthash"
	"github.com/sysblocks/sysblocks/loadbalance"
	"github.com/sysblocks/sysblocks/shard"
)

// What package shard asks for, other packages have.
var (
	_ shard.HashLocator = (*consistenthash.Map[shard.ID])(nil)
	_ shard.Balancer    = (*loadbalance.Pool[string])(nil)
)

// TestConsistentOverConsistenthash asks that keys are where the Map itself says, whatever their type.
func TestConsistentOverConsistenthash(t *testing.T) {
	var members []consistenthash.Member[shard.ID]
	for i := range 10 {
		id := fmt.Sprint("db", i)
		members = append(members, consistenthash.Member[shard.ID]{Node: consistenthash.Node{ID: id, Weight: 1}, Value: shard.ID(id)})
	}
	ring, err := consistenthash.New(consistenthash.Config[shard.ID]{Members: members})
	require.NoError(t, err)
	texts, err := shard.NewConsistent[string](ring, shard.ConsistentConfig{Shards: func() (ids []shard.ID) {
		for _, m := range ring.Members() {
			ids = append(ids, m.Value)
		}
		return ids
	}})
	require.NoError(t, err)
	bytes, err := shard.NewConsistent[[]byte](ring, shard.ConsistentConfig{})
	require.NoError(t, err)
	numbers, err := shard.NewConsistent[int32](ring, shard.ConsistentConfig{})
	require.NoError(t, err)
	check := func() {
		for i := range 1000 {
			key := fmt.Sprint("key", i)
			want, ok := ring.Get(key)
			require.True(t, ok)
			require.Equal(t, want, texts.Locate(key).Shard)
			require.Equal(t, want, bytes.Locate([]byte(key)).Shard)
			n := int32(i - 500)
			want, _ = ring.GetHash(ring.HashUint64(uint64(n)))
			require.Equal(t, want, numbers.Locate(n).Shard)
		}
	}
	check()
	require.Len(t, texts.Shards(), 10)
	require.NoError(t, ring.Update(func(tx *consistenthash.Tx[shard.ID]) error { return tx.Remove("db3") }))
	check()
	require.Len(t, texts.Shards(), 9)
	require.Zero(t, testing.AllocsPerRun(100, func() { texts.Locate("key") }))
}

// TestDirectoryOverGuard has a Bloom filter in front of a directory: what does not exist is not looked up, and
// what is inserted is found.
func TestDirectoryOverGuard(t *testing.T) {
	ctx := context.Background()
	store := &tenants{rows: map[string]shard.Placement{"old": {Shard: "a", Epoch: 1}}}
	guard, err := bloom.NewGuard[string, shard.Placement](bloom.Config[string]{N: 1000, FPR: 1e-5})
	require.NoError(t, err)
	require.NoError(t, guard.Rebuild(ctx, func(yield func(string, error) bool) {
		for k := range store.rows {
			if !yield(k, nil) {
				return
			}
		}
	}))
	d, err := shard.NewDirectory(store, shard.DirectoryConfig[string]{Capacity: 100, Filter: guard.Contains, Admit: guard.Admit})
	require.NoError(t, err)
	for i := range 100 {
		_, err = d.Route(ctx, fmt.Sprint("nobody", i))
		require.ErrorIs(t, err, shard.ErrNotFound)
	}
	require.Zero(t, store.asked)
	p, err := d.Route(ctx, "old")
	require.NoError(t, err)
	require.Equal(t, shard.ID("a"), p.Shard)
	_, err = d.Insert(ctx, "nobody1", shard.Placement{Shard: "b"})
	require.NoError(t, err)
	d.Clear()
	p, err = d.Route(ctx, "nobody1")
	require.NoError(t, err)
	require.Equal(t, shard.ID("b"), p.Shard)
	require.Equal(t, 2, store.asked)
}

// tenants is a DirectoryStore for one goroutine.
type tenants struct {
	rows  map[string]shard.Placement
	asked int
}

func (s *tenants) Lookup(_ context.Context, keys []string) (map[string]shard.Placement, error) {
	found := map[string]shard.Placement{}
	for _, k := range keys {
		s.asked++
		if p, ok := s.rows[k]; ok {
			found[k] = p
		}
	}
	return found, nil
}

func (s *tenants) Insert(_ context.Context, k string, p shard.Placement) (shard.Placement, error) {
	if old, ok := s.rows[k]; ok {
		return old, shard.ErrExists
	}
	s.rows[k] = p
	return p, nil
}

func (s *tenants) Update(context.Context, string, uint64, shard.Placement) error {
	return errors.New("not here")
}

func (s *tenants) Delete(context.Context, string, uint64) error { return errors.New("not here") }
