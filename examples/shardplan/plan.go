package main

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/sysblocks/sysblocks/consistenthash"
	"github.com/sysblocks/sysblocks/examples/internal/progress"
	"github.com/sysblocks/sysblocks/shard"
)

// strategies are the names of all, in the order in which they are printed.
var strategies = []string{"topology", "mod", "slots", "redis", "consistent", "range"}

// A plan is what there is to say. In JSON it is the form of -json.
type plan struct {
	Topology   topologyInfo  `json:"topology"`
	Type       shard.KeyKind `json:"type"`
	Total      amount        `json:"total"`
	Shards     []shard.ID    `json:"shards"`     // that have parts, sorted
	Strategies []column      `json:"strategies"` // as they were asked for
	Left       []leftOut     `json:"left_out"`
	Chance     chance        `json:"chance"`
	Hot        []hotKey      `json:"hot"` // the hottest, and all others above a fair share; the hottest first
	List       []located     `json:"list"`
	Next       *change       `json:"next,omitempty"`

	settings settings
}

type topologyInfo struct {
	File   string `json:"file"` // "": the sample
	Epoch  uint64 `json:"epoch"`
	Scheme string `json:"scheme"` // how it divides keys
	Parts  int    `json:"parts"`
}

// An amount is of different keys, and of requests for them.
type amount struct {
	Keys     int64 `json:"keys"`
	Requests int64 `json:"requests"`
}

func (a *amount) add(requests int64) {
	a.Keys++
	a.Requests += requests
}

// A column is what one strategy does.
type column struct {
	Name     string `json:"name"`
	Keys     load   `json:"keys"`
	Requests load   `json:"requests"`
}

// A load is what the shards have, and how even that is: the greatest and the least as multiples of the fair share,
// which is the same for all, and the coefficient of variation.
type load struct {
	Shards []int64 `json:"shards"` // in the order of the plan's
	Peak   float64 `json:"peak"`
	Least  float64 `json:"least"`
	CV     float64 `json:"cv"`
}

// measure fills in how even the load is.
func (l *load) measure() {
	total := int64(0)
	for _, n := range l.Shards {
		total += n
	}
	fair := float64(total) / float64(len(l.Shards))
	squares := 0.0
	for _, n := range l.Shards {
		d := float64(n) - fair
		squares += d * d
	}
	l.Peak = float64(slices.Max(l.Shards)) / fair
	l.Least = float64(slices.Min(l.Shards)) / fair
	l.CV = math.Sqrt(squares/float64(len(l.Shards))) / fair
}

// chance is the coefficients of variation to be expected if every key were placed at random: the root of their
// mean square. If a key i has w[i] requests, the load of one of m shards has the mean Σw/m and the variance
// Σw²·(1/m)·(1-1/m), so it is √((m-1)·Σw²)/Σw, and √((m-1)/n) for n keys alike.
type chance struct {
	Keys     float64 `json:"keys_cv"`
	Requests float64 `json:"requests_cv"`
}

// leftOut is a strategy that cannot place the keys.
type leftOut struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}

type hotKey struct {
	Key      keyText `json:"key"`
	Requests int64   `json:"requests"`
	Share    float64 `json:"share"`
	TooHot   bool    `json:"above_fair_share"` // no strategy can spread it
}

// located is a key, and where each strategy has it.
type located struct {
	Key      keyText             `json:"key"`
	Requests int64               `json:"requests"`
	Shards   map[string]shard.ID `json:"shards"`
}

// keyText is a key as it is printed. In JSON, what is no UTF-8 is {"hex": "ff00"}, as in a topology.
type keyText string

func (k keyText) MarshalJSON() ([]byte, error) {
	if utf8.ValidString(string(k)) {
		return json.Marshal(string(k))
	}
	return json.Marshal(map[string]string{"hex": hex.EncodeToString([]byte(k))})
}

// plan makes the plan for keys of the type that is asked for, or else the one that the topology takes.
func (s settings) plan(t, next *shard.Topology, stdin io.Reader, bar *progress.Bar) (*plan, error) {
	kind := s.kind
	if kind == 0 {
		switch c := t.Config(); {
		case c.Keys != 0:
			kind = c.Keys
		case c.Hash == shard.Identity || c.Hash == shard.VitessHash:
			kind = shard.Int
		default:
			kind = shard.Text
		}
	}
	switch kind {
	case shard.Int:
		return newPlan(s, t, next, stdin, bar, parseInt)
	case shard.Uint:
		return newPlan(s, t, next, stdin, bar, parseUint)
	case shard.Float:
		return newPlan(s, t, next, stdin, bar, parseFloat)
	}
	return newPlan(s, t, next, stdin, bar, parseText)
}

func newPlan[K key](s settings, t, next *shard.Topology, stdin io.Reader, bar *progress.Bar, parse func(string) (K, error)) (*plan, error) {
	keys, asked, err := readKeys(s, stdin, bar, parse)
	if err != nil {
		return nil, err
	}
	p := &plan{
		Topology: topologyInfo{File: s.topology, Epoch: t.Epoch(), Scheme: scheme(t), Parts: len(t.Parts())},
		Type:     shard.KindOf[K](), Shards: t.Shards(), Left: []leftOut{}, Hot: []hotKey{}, List: []located{}, settings: s,
	}
	var locators []shard.Locator[K]
	for _, name := range s.strategies {
		l, err := locator(name, t, keys)
		if err != nil {
			p.Left = append(p.Left, leftOut{name, strings.TrimPrefix(err.Error(), "shard: ")})
			continue
		}
		locators = append(locators, l)
		p.Strategies = append(p.Strategies, column{
			Name: name, Keys: load{Shards: make([]int64, len(p.Shards))}, Requests: load{Shards: make([]int64, len(p.Shards))},
		})
	}
	if len(locators) == 0 {
		return nil, fmt.Errorf("no strategy can place these keys: %s: %s", p.Left[0].Name, p.Left[0].Why)
	}
	count(p, locators, keys, bar)
	if next != nil {
		p.Next = compare(t, next, s.next)
		countMoves(p.Next, t, next, keys)
	}

	listed := make(map[K]bool)
	for _, k := range slices.Concat(asked, keys.first) {
		if listed[k] {
			continue
		}
		listed[k] = true
		at := make(map[string]shard.ID, len(locators))
		for i, l := range locators {
			at[p.Strategies[i].Name] = l.Locate(k).Shard
		}
		p.List = append(p.List, located{textOf(k), keys.counts[k], at})
	}
	return p, nil
}

// textOf returns a key as it is printed.
func textOf[K key](k K) keyText { return keyText(fmt.Sprint(k)) }

// scheme returns how a topology divides keys.
func scheme(t *shard.Topology) string {
	line, _, _ := strings.Cut(t.String(), "\n")
	_, scheme, _ := strings.Cut(line, ", ")
	return scheme
}

// locator returns a strategy over the shards of t, or why there is none for these keys.
func locator[K key](name string, t *shard.Topology, keys *tally[K]) (shard.Locator[K], error) {
	ids := t.Shards()
	switch name {
	case "mod":
		return shard.NewMod[K](shard.ModConfig{Shards: ids})
	case "slots":
		return shard.NewSlots[K](shard.SlotsConfig{Shards: ids})
	case "redis":
		if kind := shard.KindOf[K](); kind != shard.Text {
			return nil, fmt.Errorf("takes keys of type text, and not %v", kind)
		}
		return shard.NewSlots[K](shard.SlotsConfig{Shards: ids, Hash: shard.CRC16})
	case "consistent":
		var c consistenthash.Config[shard.ID]
		for _, id := range ids {
			c.Members = append(c.Members, consistenthash.Member[shard.ID]{
				Node: consistenthash.Node{ID: string(id), Weight: 1}, Value: id,
			})
		}
		m, err := consistenthash.New(c)
		if err != nil {
			return nil, err
		}
		return shard.NewConsistent[K](m, shard.ConsistentConfig{Shards: func() []shard.ID { return ids }})
	case "range":
		n, m := len(keys.counts), len(ids)
		if n < m {
			return nil, fmt.Errorf("needs a key for each of the %d shards, got %d", m, n)
		}
		sorted := slices.Sorted(maps.Keys(keys.counts))
		c := shard.RangeConfig[K]{Shards: ids}
		for i := 1; i < m; i++ {
			c.Bounds = append(c.Bounds, sorted[int(int64(i)*int64(n)/int64(m))])
		}
		return shard.NewRange(c)
	}
	return mapOf[K](t)
}

// mapOf returns the Map that goes by t.
func mapOf[K key](t *shard.Topology) (*shard.Map[K], error) {
	m, err := shard.NewMap[K](t)
	if err != nil {
		return nil, fmt.Errorf("takes no keys of type %v: %s", shard.KindOf[K](), scheme(t))
	}
	return m, nil
}

// count finds what each shard has by each strategy, and the hottest keys.
func count[K key](p *plan, locators []shard.Locator[K], keys *tally[K], bar *progress.Bar) {
	const step = 1 << 14 // keys, for the bar
	bar.Plan("placing", int64(len(keys.counts)))
	index := make(map[shard.ID]int)
	for i, id := range p.Shards {
		index[id] = i
	}
	p.Total = amount{int64(len(keys.counts)), keys.requests}
	shards, requests := float64(len(p.Shards)), float64(keys.requests)
	hot := func(k K, n int64) {
		p.Hot = append(p.Hot, hotKey{textOf(k), n, float64(n) / requests, float64(n)*shards > requests})
	}
	var hottest K
	most, squares, done := int64(0), 0.0, 0
	for k, n := range keys.counts {
		for i, l := range locators {
			c, at := &p.Strategies[i], index[l.Locate(k).Shard]
			c.Keys.Shards[at]++
			c.Requests.Shards[at] += n
		}
		squares += float64(n) * float64(n)
		if n > most || n == most && k < hottest {
			hottest, most = k, n
		}
		if n > 1 && float64(n)*shards > requests {
			hot(k, n) // of these there are fewer than shards
		}
		if done++; done%step == 0 {
			bar.Done(step)
		}
	}
	if most > 1 && len(p.Hot) == 0 {
		hot(hottest, most)
	}
	slices.SortFunc(p.Hot, func(a, b hotKey) int {
		return cmp.Or(cmp.Compare(b.Requests, a.Requests), cmp.Compare(a.Key, b.Key))
	})
	for i := range p.Strategies {
		p.Strategies[i].Keys.measure()
		p.Strategies[i].Requests.measure()
	}
	p.Chance.Keys = math.Sqrt((shards - 1) / float64(p.Total.Keys))
	p.Chance.Requests = math.Sqrt((shards-1)*squares) / requests
}
