package bloom

import (
	"reflect"
	"unsafe"
)

// Keys have a type parameter's type, and what kind of type that is can be asked only at run time,
// where a type switch costs more than the hash. So formOf asks once, when the Hasher is made, and
// afterwards a key is read through a pointer to it as the form says: by the functions here, by hash
// and raw of Hasher, and by their like in parquet.go, splitblock.go and classic.go. That is safe
// because a form is derived from K by formOf alone, the kinds of types named there are laid out
// as the types they are read as, nothing is written, and no pointer is kept: the parameter k
// outlives its use. The package uses unsafe for nothing else, but the sizes of types.

// formOf returns how keys of type K are read, and what XXH of them is called in a file.
func formOf[K any]() (keyForm, hashID) {
	t := reflect.TypeFor[K]()
	switch t.Kind() {
	case reflect.String:
		return formString, hashXXHBytes
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return formSlice, hashXXHBytes
		}
	case reflect.Array:
		if t.Elem().Kind() == reflect.Uint8 {
			return formArray, hashXXHBytes
		}
	case reflect.Int8:
		return formInt8, hashXXHInteger
	case reflect.Int16:
		return formInt16, hashXXHInteger
	case reflect.Int32:
		return formInt32, hashXXHInteger
	case reflect.Uint8:
		return formUint8, hashXXHInteger
	case reflect.Uint16:
		return formUint16, hashXXHInteger
	case reflect.Uint32:
		return formUint32, hashXXHInteger
	case reflect.Int64, reflect.Uint64:
		return formWord, hashXXHInteger
	case reflect.Int:
		if t.Size() == 4 {
			return formInt32, hashXXHInteger
		}
		return formWord, hashXXHInteger
	case reflect.Uint, reflect.Uintptr:
		if t.Size() == 4 {
			return formUint32, hashXXHInteger
		}
		return formWord, hashXXHInteger
	}
	return formNone, hashUnstorable
}

// word returns the integer of the given form that p points to, widened to 64 bits.
func word(p unsafe.Pointer, form keyForm) uint64 {
	switch form {
	case formInt8:
		return uint64(*(*int8)(p))
	case formInt16:
		return uint64(*(*int16)(p))
	case formInt32:
		return uint64(*(*int32)(p))
	case formUint8:
		return uint64(*(*uint8)(p))
	case formUint16:
		return uint64(*(*uint16)(p))
	case formUint32:
		return uint64(*(*uint32)(p))
	case formWord:
		return *(*uint64)(p)
	}
	panic("bloom: a key of no known form") // cannot be: a Hasher is made by its constructors
}
