package shard

import (
	"reflect"
	"unsafe"
)

// Keys have a type parameter's type, and what kind of type that is can be asked only at run time, where a
// type switch costs more than to find a key's place. So formOf asks once, when a router is made, and
// afterwards a key is read through a pointer to it as the form says, by the functions here. That is safe
// because a form is derived from K by formOf alone, the kinds of types named there are laid out as the
// types they are read as, nothing is written, and no pointer is kept: whoever calls them keeps the key
// alive. That the functions are not generic keeps the compiler from passing them what they do not need.
// The package uses unsafe for nothing else: a pointer is made by at, and goes to functions of this file,
// and through partOf.

// A form is how a key lies in memory.
type form uint8

const (
	formText form = iota
	formBytes
	formInt8
	formInt16
	formInt32
	formInt64
	formUint8
	formUint16
	formUint32
	formUint64
	formFloat32
	formFloat64
)

var forms = map[reflect.Kind]form{
	reflect.String: formText, reflect.Slice: formBytes,
	reflect.Int8: formInt8, reflect.Int16: formInt16, reflect.Int32: formInt32, reflect.Int64: formInt64,
	reflect.Uint8: formUint8, reflect.Uint16: formUint16, reflect.Uint32: formUint32, reflect.Uint64: formUint64,
	reflect.Float32: formFloat32, reflect.Float64: formFloat64,
}

// formOf returns how keys of type K are read. K has one of the types that Key lists, or is defined by it.
func formOf[K Key]() form {
	t := reflect.TypeFor[K]()
	switch t.Kind() {
	case reflect.Int:
		if t.Size() == 4 {
			return formInt32
		}
		return formInt64
	case reflect.Uint, reflect.Uintptr:
		if t.Size() == 4 {
			return formUint32
		}
		return formUint64
	}
	f, ok := forms[t.Kind()]
	if !ok {
		panic("shard: a key of no known form") // cannot be: Key has no other types
	}
	return f
}

// kindOf returns the kind of the keys of a form.
func kindOf(f form) KeyKind {
	switch f {
	case formText, formBytes:
		return Text
	case formInt8, formInt16, formInt32, formInt64:
		return Int
	case formFloat32, formFloat64:
		return Float
	}
	return Uint
}

// textOf returns the bytes of a key of kind Text, which must not be kept.
func textOf(k unsafe.Pointer, f form) string {
	if f == formText {
		return textAt(k)
	}
	b := bytesOf(k)
	return unsafe.String(unsafe.SliceData(b), len(b))
}

// textAt returns a key that is a string.
func textAt(k unsafe.Pointer) string { return *(*string)(k) }

// wordAt returns a key that is an integer of 64 bits.
func wordAt(k unsafe.Pointer) uint64 { return *(*uint64)(k) }

// bytesOf returns a key that is a byte slice.
func bytesOf(k unsafe.Pointer) []byte { return *(*[]byte)(k) }

// numberOf returns an integer, widened to 64 bits with its sign.
func numberOf(k unsafe.Pointer, f form) uint64 {
	switch f {
	case formInt64, formUint64:
		return wordAt(k)
	case formInt32:
		return uint64(*(*int32)(k))
	case formUint32:
		return uint64(*(*uint32)(k))
	case formInt16:
		return uint64(*(*int16)(k))
	case formUint16:
		return uint64(*(*uint16)(k))
	case formInt8:
		return uint64(*(*int8)(k))
	case formUint8:
		return uint64(*(*uint8)(k))
	case formFloat32:
		return wordOfFloat(float64(*(*float32)(k)))
	case formFloat64:
		return wordOfFloat(*(*float64)(k))
	}
	return 0 // text has none, and is not asked for one
}

// wordOf returns the word of a number, which is ordered as the number is.
func wordOf(k unsafe.Pointer, f form) uint64 {
	n := numberOf(k, f)
	if kindOf(f) == Int {
		return n ^ signBit
	}
	return n
}

// at returns a pointer to a key, for the functions above.
func at[K Key](k *K) unsafe.Pointer { return unsafe.Pointer(k) }
