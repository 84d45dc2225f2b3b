package redistier

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"

	"github.com/klauspost/compress/zstd"
)

// A Codec turns values into bytes and back. It is used by many goroutines at once. What it
// returns must be readable by all processes that share the Prefix; when its format changes, let
// the Prefix change too, or let Decode return an error for what it does not know: the value is
// then loaded again.
type Codec[V any] interface {
	// Encode returns v as bytes.
	Encode(v V) ([]byte, error)
	// Decode returns the value that was encoded as data, which it must not keep.
	Decode(data []byte) (V, error)
}

// JSON encodes values by encoding/json.
type JSON[V any] struct{}

// Encode returns v as JSON.
func (JSON[V]) Encode(v V) ([]byte, error) { return json.Marshal(v) }

// Decode reads JSON.
func (JSON[V]) Decode(data []byte) (v V, err error) { return v, json.Unmarshal(data, &v) }

// Gob encodes values by encoding/gob, with their types: for values that JSON cannot represent.
type Gob[V any] struct{}

// Encode returns v as a gob stream.
func (Gob[V]) Encode(v V) ([]byte, error) {
	var b bytes.Buffer
	err := gob.NewEncoder(&b).Encode(&v)
	return b.Bytes(), err
}

// Decode reads a gob stream.
func (Gob[V]) Decode(data []byte) (v V, err error) {
	return v, gob.NewDecoder(bytes.NewReader(data)).Decode(&v)
}

// The first byte of a stored value says how the rest is to be read. It is not the codec's, so that
// another release can be told from this one.
const (
	formatPlain = 'p'
	formatZstd  = 'z'
)

// errFormat says that a value was stored by something that this release does not know.
var errFormat = errors.New("the value has an unknown format")

// A coding is a codec with compression and bounds.
type coding[V any] struct {
	codec         Codec[V]
	compressAbove int
	maxSize       int
	encoder       *zstd.Encoder
	decoder       *zstd.Decoder
}

// init prepares c, whose fields for the codec and the bounds are set.
func (c *coding[V]) init() (err error) {
	if c.encoder, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20)); err != nil {
		return err
	}
	c.decoder, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(uint64(c.maxSize)))
	return err
}

// encode returns a value as it is stored.
func (c *coding[V]) encode(v V) ([]byte, error) {
	data, err := c.codec.Encode(v)
	if err != nil {
		return nil, err
	}
	if len(data) > c.maxSize {
		return nil, fmt.Errorf("the value has %d bytes, MaxSize is %d", len(data), c.maxSize)
	}
	if c.compressAbove >= 0 && len(data) > c.compressAbove {
		small := c.encoder.EncodeAll(data, append(make([]byte, 0, len(data)/2), formatZstd))
		if len(small) <= len(data) {
			return small, nil
		}
	}
	return append([]byte{formatPlain}, data...), nil
}

// decode reads what encode has returned.
func (c *coding[V]) decode(stored string) (v V, err error) {
	if stored == "" {
		return v, errFormat
	}
	data := []byte(stored[1:])
	switch stored[0] {
	case formatPlain:
		if len(data) > c.maxSize {
			return v, fmt.Errorf("the value has %d bytes, MaxSize is %d", len(data), c.maxSize)
		}
	case formatZstd:
		if data, err = c.decoder.DecodeAll(data, nil); err != nil {
			return v, err
		}
	default:
		return v, errFormat
	}
	return c.codec.Decode(data)
}

// plainKeys returns Key and ParseKey for strings and integers, and whether K is one.
func plainKeys[K comparable]() (key func(K) string, parse func(string) (K, error), ok bool) {
	t := reflect.TypeFor[K]()
	switch t.Kind() {
	case reflect.String:
		return func(k K) string { return reflect.ValueOf(k).String() },
			func(s string) (k K, err error) { reflect.ValueOf(&k).Elem().SetString(s); return k, nil }, true
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return func(k K) string { return strconv.FormatInt(reflect.ValueOf(k).Int(), 10) },
			func(s string) (k K, err error) {
				n, err := strconv.ParseInt(s, 10, t.Bits())
				reflect.ValueOf(&k).Elem().SetInt(n)
				return k, err
			}, true
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return func(k K) string { return strconv.FormatUint(reflect.ValueOf(k).Uint(), 10) },
			func(s string) (k K, err error) {
				n, err := strconv.ParseUint(s, 10, t.Bits())
				reflect.ValueOf(&k).Elem().SetUint(n)
				return k, err
			}, true
	}
	return nil, nil, false
}
