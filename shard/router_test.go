package shard

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestGeo(t *testing.T) {
	g, err := NewGeo(GeoConfig[string]{
		Shards:  map[string]ID{"eu": "frankfurt", "us": "virginia", "us-ca": "oregon", "eu-north": "frankfurt"},
		Default: "singapore", Epoch: 4,
	})
	require.NoError(t, err)
	for region, want := range map[string]Placement{
		"eu":         {Shard: "frankfurt", Part: 0, Epoch: 4},
		"eu-west-1":  {Shard: "frankfurt", Part: 0, Epoch: 4},
		"eu-north-1": {Shard: "frankfurt", Part: 1, Epoch: 4},
		"us-ca-sf":   {Shard: "oregon", Part: 3, Epoch: 4},
		"us-tx":      {Shard: "virginia", Part: 2, Epoch: 4},
		"usa":        {Shard: "singapore", Part: 4, Epoch: 4},
		"EU":         {Shard: "singapore", Part: 4, Epoch: 4},
		"":           {Shard: "singapore", Part: 4, Epoch: 4},
		"-":          {Shard: "singapore", Part: 4, Epoch: 4},
	} {
		require.Equal(t, want, g.Locate(region), region)
	}
	require.Equal(t, []ID{"frankfurt", "oregon", "singapore", "virginia"}, g.Shards())
	require.Len(t, g.Placements(), 5)

	type user struct{ name, country string }
	strict, err := NewGeo(GeoConfig[user]{Region: func(u user) string { return u.country }, Shards: map[string]ID{"de": "eu"}})
	require.NoError(t, err)
	p, err := strict.Route(ctx, user{"a", "de"})
	require.NoError(t, err)
	require.Equal(t, Placement{Shard: "eu", Epoch: 1}, p)
	_, err = strict.Route(ctx, user{"b", "fr"})
	require.ErrorIs(t, err, ErrNoShard)
	require.EqualError(t, err, `shard: region "fr": no shard is responsible`)

	_, err = NewGeo(GeoConfig[user]{Shards: map[string]ID{"de": "eu"}})
	require.EqualError(t, err, "shard: Region is required")
	_, err = NewGeo(GeoConfig[string]{})
	require.EqualError(t, err, "shard: Shards must have a region, got none")
	_, err = NewGeo(GeoConfig[string]{Shards: map[string]ID{"de": ""}})
	require.EqualError(t, err, `shard: Shards must have a shard for each region, got none for "de"`)
	for _, name := range []string{"", "-de", "de-", "de--by"} {
		_, err = NewGeo(GeoConfig[string]{Shards: map[string]ID{name: "eu"}})
		require.ErrorContains(t, err, "shard: Shards must have names of regions")
	}
}

func TestCompose(t *testing.T) {
	geo, err := NewGeo(GeoConfig[string]{Shards: map[string]ID{"eu": "eu", "us": "us"}})
	require.NoError(t, err)
	us, err := NewMod[int](ModConfig{Shards: []ID{"us-0", "us-1", "us-2"}})
	require.NoError(t, err)
	eu, err := NewRange(RangeConfig[int]{Bounds: []int{100}, Shards: []ID{"eu-old", "eu-new"}})
	require.NoError(t, err)
	c, err := Compose(geo, map[ID]Locator[int]{"eu": eu, "us": us})
	require.NoError(t, err)

	require.Equal(t, ID("us-2"), c.Locate(Pair[string, int]{"us-tx", 5}).Shard)
	require.Equal(t, ID("eu-new"), c.Locate(Pair[string, int]{"eu", 500}).Shard)
	require.Equal(t, Placement{}, c.Locate(Pair[string, int]{"cn", 5}))
	_, err = c.Route(ctx, Pair[string, int]{"cn", 5})
	require.ErrorIs(t, err, ErrNoShard)
	require.EqualError(t, err, `shard: key "{cn 5}": no shard is responsible`)
	p, err := c.Route(ctx, Pair[string, int]{"eu", 5})
	require.NoError(t, err)
	require.Equal(t, Placement{Shard: "eu-old", Epoch: 2}, p) // 1 and 1

	// A group that is fenced is so whatever its routers say, and its epoch counts.
	groups, err := NewRange(RangeConfig[string]{Shards: []ID{"eu"}, Epoch: 7})
	require.NoError(t, err)
	fenced, err := Compose(groups, map[ID]Locator[int]{"eu": eu})
	require.NoError(t, err)
	next, err := groups.Topology().Next(func(c *TopologyConfig) { c.Parts[0].State = Fenced })
	require.NoError(t, err)
	require.Equal(t, Placement{Shard: "eu-old", Epoch: 8}, fenced.Locate(Pair[string, int]{"x", 5}))
	require.NoError(t, groups.Update(next))
	require.Equal(t, Placement{Shard: "eu-old", Epoch: 9, State: Fenced}, fenced.Locate(Pair[string, int]{"x", 5}))
	all, err := fenced.RouteOuter(ctx, "x")
	require.NoError(t, err)
	require.Equal(t, []Placement{{Shard: "eu-old", Epoch: 9, State: Fenced}, {Shard: "eu-new", Part: 1, Epoch: 9, State: Fenced}}, all)

	ps, err := c.RouteOuter(ctx, "eu-west")
	require.NoError(t, err)
	require.Equal(t, []ID{"eu-new", "eu-old"}, Distinct(ps))
	_, err = c.RouteOuter(ctx, "cn")
	require.EqualError(t, err, `shard: outer key "cn": no shard is responsible`)
	require.Equal(t, []ID{"eu-new", "eu-old", "us-0", "us-1", "us-2"}, c.Shards())

	// Of what is composed more can be composed.
	two, err := Compose(mustSlotsOf[string](t, "x"), map[ID]Locator[Pair[string, int]]{"x": c})
	require.NoError(t, err)
	require.Equal(t, ID("us-2"), two.Locate(Pair[string, Pair[string, int]]{"any", Pair[string, int]{"us", 2}}).Shard)
	require.Equal(t, c.Shards(), two.Shards())

	for want, f := range map[string]func() error{
		"shard: the outer router is required": func() error { _, err := Compose[string](nil, map[ID]Locator[int]{}); return err },
		`shard: the inner routers must have one for each group of the outer one, got none for "us"`: func() error {
			_, err := Compose(geo, map[ID]Locator[int]{"eu": eu})
			return err
		},
		`shard: the inner routers must have different shards, got "us-0" for both "eu" and "us"`: func() error {
			_, err := Compose(geo, map[ID]Locator[int]{"eu": us, "us": us})
			return err
		},
		`shard: the inner routers must have shards, got none for "us"`: func() error {
			none, err := NewConsistent[int](&fakeRing{}, ConsistentConfig{})
			require.NoError(t, err)
			_, err = Compose(geo, map[ID]Locator[int]{"eu": eu, "us": none})
			return err
		},
		"shard: the outer router must have groups, got none": func() error {
			none, err := NewConsistent[string](&fakeRing{}, ConsistentConfig{})
			require.NoError(t, err)
			_, err = Compose(none, map[ID]Locator[int]{})
			return err
		},
		"shard: the outer router must be a Lister, got shard.locatorFunc[string]": func() error {
			_, err := Compose[string](locatorFunc[string](nil), map[ID]Locator[int]{})
			return err
		},
		`shard: the inner routers must be Listers, got shard.locatorFunc[int] for "eu"`: func() error {
			_, err := Compose(geo, map[ID]Locator[int]{"eu": locatorFunc[int](nil), "us": us})
			return err
		},
	} {
		require.EqualError(t, f(), want)
	}
}

func mustSlotsOf[K Key](t *testing.T, shards ...ID) *Map[K] {
	t.Helper()
	m, err := NewSlots[K](SlotsConfig{Shards: shards})
	require.NoError(t, err)
	return m
}

type locatorFunc[K any] func(K) Placement

func (f locatorFunc[K]) Locate(k K) Placement { return f(k) }

// fakeRing is the smallest HashLocator.
type fakeRing struct{ ids []ID }

func (r *fakeRing) Hash(key string) uint64       { return XXH64.hashText(key, 0) }
func (r *fakeRing) HashBytes(key []byte) uint64  { return r.Hash(string(key)) }
func (r *fakeRing) HashUint64(key uint64) uint64 { return xxh64Word(key, 0) }
func (r *fakeRing) GetHash(h uint64) (ID, bool) {
	if len(r.ids) == 0 {
		return "", false
	}
	return r.ids[h%uint64(len(r.ids))], true
}

func TestConsistent(t *testing.T) {
	ring := &fakeRing{ids: []ID{"b", "a", "c"}}
	epoch := uint64(3)
	r, err := NewConsistent[string](ring, ConsistentConfig{
		Shards: func() []ID { return ring.ids }, Epoch: func() uint64 { return epoch },
	})
	require.NoError(t, err)
	b, err := NewConsistent[[]byte](ring, ConsistentConfig{})
	require.NoError(t, err)
	n, err := NewConsistent[int8](ring, ConsistentConfig{})
	require.NoError(t, err)
	for i := range 100 {
		k := fmt.Sprint(i)
		want, _ := ring.GetHash(ring.Hash(k))
		require.Equal(t, Placement{Shard: want, Epoch: 3}, r.Locate(k))
		require.Equal(t, Placement{Shard: want}, b.Locate([]byte(k)))
		want, _ = ring.GetHash(ring.HashUint64(-uint64(i)))
		p, err := n.Route(ctx, int8(-i))
		require.NoError(t, err)
		require.Equal(t, Placement{Shard: want}, p)
	}
	require.Equal(t, []ID{"a", "b", "c"}, r.Shards())
	require.Equal(t, []ID{"b", "a", "c"}, ring.ids) // not sorted in place
	require.Equal(t, []Placement{{Shard: "a", Epoch: 3}, {Shard: "b", Epoch: 3}, {Shard: "c", Epoch: 3}}, r.Placements())
	require.Empty(t, b.Shards())

	// A ring that changes while it is asked: the epoch is of before.
	changing, err := NewConsistent[string](changingRing{ring, &epoch}, ConsistentConfig{Epoch: func() uint64 { return epoch }})
	require.NoError(t, err)
	require.EqualValues(t, 3, changing.Locate("x").Epoch)
	require.EqualValues(t, 4, epoch)
	epoch = 3

	ring.ids = nil
	require.Equal(t, Placement{Epoch: 3}, r.Locate("x"))
	_, err = r.Route(ctx, strings.Repeat("x", 1000))
	require.ErrorIs(t, err, ErrNoShard)
	require.Less(t, len(err.Error()), 120)
	_, err = NewConsistent[string](nil, ConsistentConfig{})
	require.EqualError(t, err, "shard: HashLocator is required")
}

func TestPinned(t *testing.T) {
	m := mustSlots(t, "a", "b")
	pins := map[string]ID{"celebrity": "big", "tester": "a"}
	r, err := NewPinned[string](m, pins)
	require.NoError(t, err)
	pins["other"] = "x"
	require.Equal(t, Placement{Shard: "big", Part: PinnedPart}, r.Locate("celebrity"))
	require.Equal(t, m.Locate("other"), r.Locate("other"))
	p, err := r.Route(ctx, "tester")
	require.NoError(t, err)
	require.Equal(t, ID("a"), p.Shard)
	require.Equal(t, []ID{"a", "b", "big"}, r.Shards())
	require.Equal(t, append(m.Placements(), Placement{Shard: "a", Part: PinnedPart}, Placement{Shard: "big", Part: PinnedPart}), r.Placements())
	next, err := m.Topology().Next(func(c *TopologyConfig) { c.Parts[m.Locate("celebrity").Part].State = Fenced })
	require.NoError(t, err)
	require.NoError(t, m.Update(next))
	require.Equal(t, Serving, r.Locate("celebrity").State)

	_, err = NewPinned[string](nil, nil)
	require.EqualError(t, err, "shard: the router of all other keys is required")
	_, err = NewPinned[string](locatorFunc[string](nil), nil)
	require.EqualError(t, err, "shard: the router of all other keys must be a Lister, got shard.locatorFunc[string]")
	_, err = NewPinned[string](m, map[string]ID{"x": ""})
	require.EqualError(t, err, "shard: pins must have a shard for each key, got none for x")
}

// A changingRing gets another epoch each time that it is asked.
type changingRing struct {
	*fakeRing
	epoch *uint64
}

func (r changingRing) GetHash(h uint64) (ID, bool) {
	*r.epoch++
	return r.fakeRing.GetHash(h)
}
