package shard

import (
	"encoding/binary"
	"fmt"
	"math"
	"reflect"
)

// A Key is a type of keys that a Map can place: what cmp.Ordered has, and byte slices.
type Key interface {
	~string | ~[]byte |
		~int | ~int8 | ~int16 | ~int32 | ~int64 |
		~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~uintptr |
		~float32 | ~float64
}

// A KeyKind is what keys are, so far as their order and their bytes are concerned.
type KeyKind uint8

const (
	// Text is the kind of strings and byte slices, in the order of their bytes.
	Text KeyKind = iota + 1
	// Int is the kind of signed integers.
	Int
	// Uint is the kind of unsigned integers.
	Uint
	// Float is the kind of floating-point numbers, in the order of cmp.Compare: NaN is below all
	// others, and the two zeros are the same.
	Float
)

var kindNames = map[KeyKind]string{Text: "text", Int: "int", Uint: "uint", Float: "float"}

// String returns the name of the kind: "text", "int", "uint" or "float".
func (k KeyKind) String() string {
	if name, ok := kindNames[k]; ok {
		return name
	}
	return fmt.Sprintf("KeyKind(%d)", uint8(k))
}

// MarshalText returns the name of the kind.
func (k KeyKind) MarshalText() ([]byte, error) { return marshalName("Keys", kindNames, k) }

// UnmarshalText sets the kind to the one that has the name.
func (k *KeyKind) UnmarshalText(text []byte) error { return unmarshalName("Keys", kindNames, k, text) }

// KindOf returns the kind of the keys of type K.
func KindOf[K Key]() KeyKind { return kindOf(formOf[K]()) }

// wordBytes is the length of an encoded number.
const wordBytes = 8

// EncodeKey returns bytes that are ordered as the keys are, which is how a Topology has its bounds: of strings
// and byte slices the bytes themselves, of numbers 8 bytes, the same for the same number of another type of
// the kind.
func EncodeKey[K Key](k K) []byte {
	form := formOf[K]()
	if form == formText || form == formBytes {
		return []byte(textOf(at(&k), form))
	}
	return encodeWord(wordOf(at(&k), form))
}

// DecodeKey returns the key that EncodeKey has encoded, or an error if b is no key of type K.
func DecodeKey[K Key](b []byte) (K, error) {
	var k K
	v := reflect.ValueOf(&k).Elem()
	form := formOf[K]()
	switch form {
	case formText:
		v.SetString(string(b))
		return k, nil
	case formBytes:
		v.SetBytes(append([]byte{}, b...))
		return k, nil
	}
	if len(b) != wordBytes {
		return k, fmt.Errorf("shard: a key of type %v must have %d bytes, got %d", v.Type(), wordBytes, len(b))
	}
	w := binary.BigEndian.Uint64(b)
	fits := true
	switch kindOf(form) {
	case Int:
		n := int64(w ^ signBit)
		if fits = !v.OverflowInt(n); fits {
			v.SetInt(n)
		}
	case Uint:
		if fits = !v.OverflowUint(w); fits {
			v.SetUint(w)
		}
	case Float:
		f := floatOf(w)
		if fits = wordOfFloat(f) == w && (form == formFloat64 || math.IsNaN(f) || float64(float32(f)) == f); fits {
			v.SetFloat(f)
		}
	}
	if !fits {
		return k, fmt.Errorf("shard: the bytes %x are no key of type %v", b, v.Type())
	}
	return k, nil
}

const signBit = 1 << 63

// Words are ordered as the numbers that they stand for are: of unsigned integers they are the numbers, of
// signed ones the sign bit is inverted. Of floating-point numbers, whose bits are ordered by magnitude,
// all bits are inverted if they are negative, and the sign bit is if not.

func wordOfFloat(f float64) uint64 {
	if f == 0 {
		return signBit // -0 as well
	}
	if f != f {
		return 0 // below that of -Inf
	}
	b := math.Float64bits(f)
	if b&signBit != 0 {
		return ^b
	}
	return b | signBit
}

func floatOf(w uint64) float64 {
	switch {
	case w == 0:
		return math.NaN()
	case w&signBit != 0:
		return math.Float64frombits(w &^ signBit)
	}
	return math.Float64frombits(^w)
}

func encodeWord(w uint64) []byte { return binary.BigEndian.AppendUint64(nil, w) }

// marshalName returns the name of v, for MarshalText of types with few values.
func marshalName[T comparable](field string, names map[T]string, v T) ([]byte, error) {
	if name, ok := names[v]; ok {
		return []byte(name), nil
	}
	return nil, fmt.Errorf("shard: %s must be %s, got %v", field, listNames(names), v)
}

// unmarshalName sets v to what has the name.
func unmarshalName[T comparable](field string, names map[T]string, v *T, text []byte) error {
	for value, name := range names {
		if name == string(text) {
			*v = value
			return nil
		}
	}
	return fmt.Errorf("shard: %s must be %s, got %q", field, listNames(names), text)
}
