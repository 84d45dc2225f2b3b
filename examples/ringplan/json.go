package main

import (
	"encoding/json"
	"fmt"
	"io"
)

// The form of -json.
type (
	planJSON struct {
		Before    mapJSON        `json:"before"`
		After     mapJSON        `json:"after"`
		Seed      uint64         `json:"seed"`
		Method    method         `json:"method"`             // exact, sampled or keys
		Compared  int            `json:"compared,omitempty"` // positions or keys
		Noise     float64        `json:"noise,omitempty"`    // of moved, 19 times of 20
		Moved     float64        `json:"moved"`              // shares are from 0 to 1
		Least     float64        `json:"least"`
		Needless  float64        `json:"without_need"`
		Nodes     []nodeJSON     `json:"nodes"`           // in order of ID
		Transfers []transferJSON `json:"transfers"`       // the largest first
		Moves     []moveJSON     `json:"moves,omitempty"` // in order of positions
		Keys      *keysJSON      `json:"keys,omitempty"`
	}
	mapJSON struct {
		Algorithm   string  `json:"algorithm"`
		Fingerprint string  `json:"fingerprint"`
		Peak        float64 `json:"peak"` // as a multiple of the fair share
	}
	nodeJSON struct {
		ID     string    `json:"id"`
		Before *sideJSON `json:"before"` // null if it is not there
		After  *sideJSON `json:"after"`
		Gives  float64   `json:"gives"`
		Takes  float64   `json:"takes"`
	}
	sideJSON struct {
		Weight uint32  `json:"weight"`
		Zone   string  `json:"zone"`
		Fair   float64 `json:"fair"`
		Share  float64 `json:"share"`
	}
	transferJSON struct {
		From  string  `json:"from"`
		To    string  `json:"to"`
		Share float64 `json:"share"`
	}
	moveJSON struct {
		First string  `json:"first"` // positions in hexadecimal, both included
		Last  string  `json:"last"`
		From  string  `json:"from"`
		To    string  `json:"to"`
		Share float64 `json:"share"`
	}
	keysJSON struct {
		File  string        `json:"file"`
		Count int           `json:"count"`
		Moved int           `json:"moved"`
		List  []keyMoveJSON `json:"list,omitempty"`
	}
	keyMoveJSON struct {
		Key  string `json:"key"`
		From string `json:"from"`
		To   string `json:"to"`
	}
)

// writeJSON prints the plan for programs.
func (p *plan) writeJSON(w io.Writer) error {
	out := planJSON{
		Before:    mapJSON{fmt.Sprint(p.algorithm[0].make()), hex(p.maps[0].Fingerprint()), p.peak[0].ratio},
		After:     mapJSON{fmt.Sprint(p.algorithm[1].make()), hex(p.maps[1].Fingerprint()), p.peak[1].ratio},
		Seed:      p.seed,
		Method:    p.method,
		Compared:  p.compared,
		Moved:     p.moved,
		Least:     p.least,
		Needless:  p.needless,
		Nodes:     []nodeJSON{},
		Transfers: []transferJSON{},
	}
	if p.method == sampled {
		out.Noise = p.noise(p.moved)
	}
	for _, r := range p.nodes {
		n := nodeJSON{ID: r.id, Gives: r.gives, Takes: r.takes}
		for i, to := range []**sideJSON{&n.Before, &n.After} {
			if s := r.sides[i]; s.there {
				*to = &sideJSON{s.weight, s.zone, s.fair, s.share}
			}
		}
		out.Nodes = append(out.Nodes, n)
	}
	for _, t := range p.transfers {
		out.Transfers = append(out.Transfers, transferJSON{t.from, t.to, t.share})
	}
	for _, m := range p.moves {
		out.Moves = append(out.Moves, moveJSON{hex(m.First), hex(m.Last), m.From, m.To, m.Share()})
	}
	if p.keyCount > 0 {
		out.Keys = &keysJSON{File: p.keys, Count: p.keyCount, Moved: p.keyMoves}
		for _, k := range p.keyList {
			out.Keys.List = append(out.Keys.List, keyMoveJSON{k.key, k.from, k.to})
		}
	}
	text, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(text, '\n'))
	return err
}

func hex(h uint64) string { return fmt.Sprintf("0x%016x", h) }
