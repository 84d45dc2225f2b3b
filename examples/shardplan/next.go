package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/sysblocks/sysblocks/shard"
)

// A change is what is different if another topology follows.
type change struct {
	File    string       `json:"file"`
	Epoch   uint64       `json:"epoch"`
	Follows bool         `json:"follows"`
	Why     string       `json:"why,omitempty"`      // it does not
	Parts   []partChange `json:"parts"`              // in order of ID
	Moved   *amount      `json:"moved"`              // what is at another shard afterwards
	Moving  *amount      `json:"moving"`             // what is in parts that are migrating or fenced then
	NoMoves string       `json:"no_moves,omitempty"` // why they are null
}

// A partChange is a part that is at another shard, or has another state or other bounds.
type partChange struct {
	ID     shard.PartID    `json:"id"`
	What   string          `json:"what"`   // shard, state or bounds, or more than one of them; new or gone
	Before json.RawMessage `json:"before"` // as in the topology; null if it is new
	After  json.RawMessage `json:"after"`  // null if it is gone
}

// A partText is a part, and how it is written in JSON.
type partText struct {
	shard.Part
	text json.RawMessage
}

// partsOf returns the parts of a topology by their IDs.
func partsOf(t *shard.Topology) map[shard.PartID]partText {
	var j struct{ Parts []json.RawMessage }
	text, err := t.MarshalJSON()
	if cmp.Or(err, json.Unmarshal(text, &j)) != nil {
		panic(err) // cannot be: t has been parsed from such a text
	}
	parts := make(map[shard.PartID]partText)
	for i, p := range t.Parts() {
		parts[p.ID] = partText{p, j.Parts[i]} // both are in the order of bounds
	}
	return parts
}

func compare(t, next *shard.Topology, file string) *change {
	c := &change{File: file, Epoch: next.Epoch(), Follows: true, Parts: []partChange{}}
	if err := next.Follows(t); err != nil {
		c.Follows, c.Why = false, strings.TrimPrefix(err.Error(), "shard: ")
	}
	before, after := partsOf(t), partsOf(next)
	ids := slices.Collect(maps.Keys(before))
	ids = slices.AppendSeq(ids, maps.Keys(after))
	slices.Sort(ids)
	for _, id := range slices.Compact(ids) {
		p, q := before[id], after[id]
		var what []string
		switch {
		case p.text == nil:
			what = []string{"new"}
		case q.text == nil:
			what = []string{"gone"}
		default:
			if p.Shard != q.Shard {
				what = append(what, "shard")
			}
			if p.State != q.State || p.Target != q.Target {
				what = append(what, "state")
			}
			if !bytes.Equal(p.Low, q.Low) || !bytes.Equal(p.High, q.High) {
				what = append(what, "bounds")
			}
		}
		if what != nil {
			c.Parts = append(c.Parts, partChange{id, strings.Join(what, ", "), p.text, q.text})
		}
	}
	return c
}

// countMoves counts what moves, unless one of the topologies is not for such keys.
func countMoves[K key](c *change, t, next *shard.Topology, keys *tally[K]) {
	before, err := mapOf[K](t)
	if err != nil {
		c.NoMoves = "the topology " + err.Error()
		return
	}
	after, err := mapOf[K](next)
	if err != nil {
		c.NoMoves = "the next topology " + err.Error()
		return
	}
	c.Moved, c.Moving = new(amount), new(amount)
	for k, n := range keys.counts {
		p := after.Locate(k)
		if p.Shard != before.Locate(k).Shard {
			c.Moved.add(n)
		}
		if p.State != shard.Serving {
			c.Moving.add(n)
		}
	}
}
