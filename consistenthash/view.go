package consistenthash

import "unsafe"

// view returns the bytes of s without copying them, for a KeyHasher, which must neither change nor
// keep them; so the string is not changed, and outlives the slice. The package uses unsafe
// for nothing else.
func view(s string) []byte {
	return unsafe.Slice(unsafe.StringData(s), len(s))
}
