package main

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
)

// A territory says who has what: spans in ascending order that cover all positions from 0 on. A
// position is one of 2^64, or a partition, or a key of a sample.
type territory []span

// A span is the positions from the end of the one before it to last, which is included.
type span struct {
	last  uint64
	owner int32
}

// loads returns what each of n nodes has, as multiples of the fair share.
func (t territory) loads(n int) []float64 {
	has := make([]float64, n)
	var first uint64
	var all float64
	for _, s := range t {
		size := float64(s.last-first) + 1 // which may be 2^64
		has[s.owner] += size
		all += size
		first = s.last + 1
	}
	for i := range has {
		has[i] = has[i] * float64(n) / all
	}
	return has
}

// moved returns what went without need from one node that stays to another, as a share of what
// those that stay had. Before is numbered as in t; stays returns the number there of a node in
// after, or of one in before: -1, if it has come, or has gone. If after ends first, the rest of
// t is not looked at.
func (t territory) moved(after territory, staysBefore, staysAfter func(node int32) int32) float64 {
	var first uint64
	var stayed, moved float64
	for i, j := 0, 0; i < len(t) && j < len(after); {
		a, b := t[i], after[j]
		last := min(a.last, b.last)
		if from := staysBefore(a.owner); from >= 0 {
			size := float64(last-first) + 1
			stayed += size
			if to := staysAfter(b.owner); to >= 0 && to != from {
				moved += size
			}
		}
		if a.last == last {
			i++
		}
		if b.last == last {
			j++
		}
		first = last + 1
	}
	if stayed == 0 {
		return 0
	}
	return moved / stayed
}

// A result is what came out of one set of nodes.
type result struct {
	peak, minimum float64
	leave, join   float64 // moved without need; of several that left one at a time, the mean
}

// measure returns the results by implementation, number of nodes, and set. All CPUs take part.
func (o options) measure() ([][][]result, error) {
	type job struct{ impl, size, set int }
	var jobs []job
	results := make([][][]result, len(o.impls))
	for i, in := range o.impls {
		results[i] = make([][]result, len(o.nodes))
		for j := range o.nodes {
			results[i][j] = make([]result, o.setsOf(in))
			for set := range results[i][j] {
				jobs = append(jobs, job{i, j, set})
			}
		}
	}
	var (
		mu    sync.Mutex
		next  int
		first error
		wg    sync.WaitGroup
	)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				mu.Lock()
				if next == len(jobs) || first != nil {
					mu.Unlock()
					return
				}
				j := jobs[next]
				next++
				mu.Unlock()
				r, err := o.measureSet(o.impls[j.impl], o.nodes[j.size], j.set)
				if err != nil {
					mu.Lock()
					first = fmt.Errorf("%s with %d nodes: %w", o.impls[j.impl].name, o.nodes[j.size], err)
					mu.Unlock()
					return
				}
				results[j.impl][j.size][j.set] = r
			}
		})
	}
	wg.Wait()
	return results, first
}

func (o options) setsOf(in impl) int {
	if in.peer {
		return o.peerSets
	}
	return o.sets
}

// measureSet measures one set of n nodes.
func (o options) measureSet(in impl, n, set int) (r result, err error) {
	nodes := make([]string, n)
	for i := range nodes {
		nodes[i] = nodeName(set, i)
	}
	var keys []string
	sample := func() []string {
		if keys == nil {
			keys = keysOf(set, o.keys)
		}
		return keys
	}
	few := func() []string { return sample()[:o.keys/10] }

	p, err := in.build(nil, nodes)
	if err != nil {
		return r, err
	}
	before := p.territory(sample)
	loads := before.loads(n)
	r.peak, r.minimum = slices.Max(loads), slices.Min(loads)

	rng := rand.New(rand.NewPCG(o.seed, uint64(n)<<32|uint64(set)))
	leaving := rng.Perm(n)[:min(o.changes, n)]
	if in.numbered {
		leaving = []int{n - 1}
	}
	same := func(node int32) int32 { return node }
	for _, i := range leaving {
		without := slices.Delete(slices.Clone(nodes), i, i+1)
		if p, err = in.build(p, without); err != nil {
			return r, err
		}
		gone := int32(i)
		r.leave += before.moved(p.territory(few), func(node int32) int32 {
			if node == gone {
				return -1
			}
			return node
		}, func(node int32) int32 {
			if node >= gone {
				return node + 1
			}
			return node
		}) / float64(len(leaving))
	}

	with := append(slices.Clone(nodes), nodeName(set, n))
	if p, err = in.build(p, with); err != nil {
		return r, err
	}
	r.join = before.moved(p.territory(few), same, func(node int32) int32 {
		if node == int32(n) {
			return -1
		}
		return node
	})
	return r, nil
}

// nodeName returns the name of a node. It does not end with the number, because consistent,
// which puts numbers behind names, takes "a-1" with 11 for "a-11" with 1, and panics when one of
// them leaves.
func nodeName(set, i int) string { return fmt.Sprintf("node-%d-%d:7000", set, i) }

// keysOf returns n keys of 16 bytes; those of another set are others.
func keysOf(set, n int) []string {
	const width = 16
	all := make([]byte, n*width)
	for i := range n {
		k := all[i*width : (i+1)*width]
		copy(k, "user")
		for j, v := 7, set; j >= 4; j, v = j-1, v/10 {
			k[j] = byte('0' + v%10)
		}
		for j, v := 15, i; j >= 8; j, v = j-1, v/10 {
			k[j] = byte('0' + v%10)
		}
	}
	text := string(all)
	keys := make([]string, n)
	for i := range keys {
		keys[i] = text[i*width : (i+1)*width]
	}
	return keys
}
