package readlock

import "unsafe"

// hint returns a number that is likely to stay the same within one goroutine, and to differ
// between goroutines: it comes from where the goroutine's stack is. Nothing but speed
// depends on it.
//
// This is the only use of unsafe. The pointer becomes a number at once, and that number is
// never made a pointer again, so nothing can go wrong when a stack moves.
func hint[T any]() uint32 {
	var here byte
	// Stacks are of 2 KiB at least, and aligned to their size. The multiplication
	// (Knuth, vol. 3, section 6.4) brings all higher bits of the address into the result.
	return uint32(uintptr(unsafe.Pointer(&here))>>11) * 2654435769 >> 16
}
