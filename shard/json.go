package shard

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A Topology in JSON is meant to be read and written by people as well:
//
//	{
//	  "epoch": 7,
//	  "strategy": "range",
//	  "keys": "int",
//	  "parts": [
//	    {"id": 0, "high": 1000, "shard": "a"},
//	    {"id": 1, "low": 1000, "shard": "b", "state": "migrating", "target": "c", "epoch": 7}
//	  ]
//	}
//
// So bounds are numbers and strings, which are JSON's where that has them; {"hex": "ff00"} stands for the
// bytes of a text that is no UTF-8, or has U+FFFD, which JSON's readers put in place of what is none; and "+Inf"
// and "-Inf" for the numbers of those names.

type topologyJSON struct {
	Epoch    uint64     `json:"epoch"`
	Strategy Strategy   `json:"strategy"`
	Keys     KeyKind    `json:"keys,omitzero"`
	Hash     Hash       `json:"hash,omitzero"`
	Seed     uint64     `json:"seed,omitempty"`
	Tags     bool       `json:"tags,omitempty"`
	Slots    int        `json:"slots,omitempty"`
	Parts    []partJSON `json:"parts"`
}

type partJSON struct {
	ID     PartID          `json:"id"`
	Low    json.RawMessage `json:"low,omitempty"`
	High   json.RawMessage `json:"high,omitempty"`
	Shard  ID              `json:"shard"`
	State  string          `json:"state,omitempty"`
	Target ID              `json:"target,omitempty"`
	Epoch  uint64          `json:"epoch,omitempty"`
}

type hexJSON struct {
	Hex string `json:"hex"`
}

// MarshalJSON returns the topology in a form that UnmarshalJSON takes, and people can read.
func (t Topology) MarshalJSON() ([]byte, error) {
	if err := t.Validate(); err != nil {
		return nil, err
	}
	c := &t.c
	j := topologyJSON{
		Epoch: c.Epoch, Strategy: c.Strategy, Keys: c.Keys, Hash: c.Hash, Seed: c.Seed, Tags: c.Tags, Slots: c.Slots,
		Parts: make([]partJSON, len(c.Parts)),
	}
	for i := range c.Parts {
		p := &c.Parts[i]
		j.Parts[i] = partJSON{
			ID: p.ID, Low: c.marshalBound(p.Low), High: c.marshalBound(p.High),
			Shard: p.Shard, Target: p.Target, Epoch: p.Epoch,
		}
		if p.State != Serving {
			j.Parts[i].State = p.State.String()
		}
	}
	return json.Marshal(j)
}

// UnmarshalJSON sets t to the topology of the text, if that is one that NewTopology would make; else t is
// unchanged. Fields that are not known, misspelt, there twice or null are refused, so that nothing is
// left to its default, or read in two ways, without a word. t must not be in use.
func (t *Topology) UnmarshalJSON(text []byte) error {
	if err := checkJSON(text); err != nil {
		return fmt.Errorf("shard: topology: %w", err)
	}
	var j topologyJSON
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&j); err != nil {
		return fmt.Errorf("shard: topology: %w", err)
	}
	c := TopologyConfig{
		Epoch: j.Epoch, Strategy: j.Strategy, Keys: j.Keys, Hash: j.Hash, Seed: j.Seed, Tags: j.Tags, Slots: j.Slots,
		Parts: make([]Part, len(j.Parts)),
	}
	for i := range j.Parts {
		p := &j.Parts[i]
		low, err := c.unmarshalBound(p.Low)
		if err != nil {
			return fmt.Errorf("shard: Parts: part %d: Low %w", p.ID, err)
		}
		high, err := c.unmarshalBound(p.High)
		if err != nil {
			return fmt.Errorf("shard: Parts: part %d: High %w", p.ID, err)
		}
		c.Parts[i] = Part{ID: p.ID, Low: low, High: high, Shard: p.Shard, Target: p.Target, Epoch: p.Epoch}
		if p.State != "" {
			if c.Parts[i].State.UnmarshalText([]byte(p.State)) != nil {
				return fmt.Errorf("shard: Parts: part %d: State must be serving, migrating or fenced, got %q", p.ID, p.State)
			}
		}
	}
	n, err := NewTopology(c)
	if err != nil {
		return err
	}
	*t = *n
	return nil
}

// ParseTopology returns the topology of a JSON text; see Topology.UnmarshalJSON.
func ParseTopology(text []byte) (*Topology, error) {
	t := new(Topology)
	if err := t.UnmarshalJSON(text); err != nil {
		return nil, err
	}
	return t, nil
}

// checkJSON refuses what encoding/json would take, and make of it what it likes: bytes that are no UTF-8, nulls,
// and names that are there twice, or not in lower case.
func checkJSON(text []byte) error {
	if !utf8.Valid(text) {
		return errors.New("must be UTF-8")
	}
	if !json.Valid(text) {
		var v any
		return json.Unmarshal(text, &v)
	}
	var inside []map[string]bool // the names so far of each object, and nil for each array, around the token
	name := false                // whether the token is one
	for d := json.NewDecoder(bytes.NewReader(text)); ; {
		token, err := d.Token()
		if err != nil {
			return nil // the end, of a text that is valid
		}
		switch v := token.(type) {
		case json.Delim:
			switch v {
			case '{':
				inside, name = append(inside, map[string]bool{}), true
				continue
			case '[':
				inside, name = append(inside, nil), false
				continue
			}
			inside = inside[:len(inside)-1]
		case nil:
			return errors.New("must have no null")
		case string:
			if name {
				names := inside[len(inside)-1]
				switch {
				case names[v]:
					return fmt.Errorf("must have each name once in an object, got %q twice", v)
				case v != strings.ToLower(v):
					return fmt.Errorf("must have names in lower case, got %q", v)
				}
				names[v], name = true, false
				continue
			}
		}
		name = len(inside) > 0 && inside[len(inside)-1] != nil
	}
}

func (c *TopologyConfig) marshalBound(b []byte) json.RawMessage {
	if len(b) == 0 {
		return nil
	}
	var v any
	switch c.boundKind() {
	case Text:
		if v = string(b); bytes.ContainsRune(b, utf8.RuneError) {
			v = hexJSON{hex.EncodeToString(b)}
		}
	case Float:
		f := floatOf(binary.BigEndian.Uint64(b))
		if v = f; math.IsInf(f, 0) || f != f {
			v = strconv.FormatFloat(f, 'g', -1, 64)
		}
	default:
		return json.RawMessage(c.boundText(b))
	}
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // cannot be: strings and numbers have a form in JSON
	}
	return text
}

func (c *TopologyConfig) unmarshalBound(text json.RawMessage) ([]byte, error) {
	if len(text) == 0 {
		return nil, nil
	}
	if c.boundKind() == Text {
		if text[0] == '{' {
			var h hexJSON
			d := json.NewDecoder(bytes.NewReader(text))
			d.DisallowUnknownFields()
			if err := d.Decode(&h); err != nil {
				return nil, fmt.Errorf("must have bytes as hex: %w", err)
			}
			b, err := hex.DecodeString(h.Hex)
			if err == nil && len(b) == 0 {
				err = errors.New("there are none")
			}
			if err != nil {
				return nil, fmt.Errorf("must have bytes as hex: %w", err)
			}
			return b, nil
		}
		var s string
		if err := json.Unmarshal(text, &s); err != nil {
			return nil, fmt.Errorf("must be a string or bytes as hex, got %s", abbreviate(string(text)))
		}
		if strings.ContainsRune(s, utf8.RuneError) {
			return nil, fmt.Errorf("must be given as hex if it has what is no text, or U+FFFD, got %s", abbreviate(s))
		}
		return []byte(s), nil
	}
	var w uint64
	var err error
	switch c.boundKind() {
	case Int:
		var n int64
		n, err = strconv.ParseInt(string(text), 10, 64)
		w = uint64(n) ^ signBit
	case Uint:
		w, err = strconv.ParseUint(string(text), 10, 64)
	case Float:
		var f float64
		f, err = strconv.ParseFloat(string(bytes.Trim(text, `"`)), 64)
		w = wordOfFloat(f)
	default:
		return nil, nil // Validate says what is wrong with the kind
	}
	if err != nil {
		var n *strconv.NumError
		if errors.As(err, &n) {
			err = n.Err
		}
		return nil, fmt.Errorf("must be a bound of kind %v, got %s: %w", c.boundKind(), abbreviate(string(text)), err)
	}
	return encodeWord(w), nil
}
