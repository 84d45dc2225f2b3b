package bloom

import (
	"errors"
	"fmt"
	"math"
)

// A Tester tells whether a key is in a set. If it says no, that is certain; if it says yes, the
// key may be a false positive.
type Tester[K any] interface {
	// Contains reports whether k may be in the set.
	Contains(k K) bool
}

// A Filter is a set that keys can be added to.
type Filter[K any] interface {
	Tester[K]
	// Add adds k, and reports whether that changed the filter: false means that k was
	// there already, or looked so.
	Add(k K) (added bool)
}

// A Config says what a filter is to be like. N and FPR are required, except by the Fuse filters;
// the zero value of every other field is a good default.
type Config[K any] struct {
	_ struct{}

	// N is the number of distinct keys, at least 1, that the filter is made for. More can be
	// added (but to a Cuckoo), at the price of more false positives.
	N uint64

	// FPR is the false-positive rate when N keys are in the filter: the share of the keys not
	// in it for which Contains is true nevertheless. More than 0 and less than 1; some kinds
	// of filter have a least rate, below which they would need more memory than Classic.
	FPR float64

	// MaxBytes is the most memory, in bytes, that the filter's data may take: more is refused,
	// when the filter is made and when one is read; a Scalable then stops growing. 0: 1 GiB.
	MaxBytes uint64

	// Hash is how keys are hashed. The zero value is XXH[K](0), for the types that XXH takes and
	// byte arrays of any length; for others it is required. SplitBlock and Classic have hashes of
	// their own, and refuse another.
	Hash Hasher[K]

	// SingleWinner asks of a Concurrent or a Rotating that, of the goroutines that add the same
	// key at once, at most one is told that it was first. It costs memory: see Concurrent. The
	// other kinds refuse it.
	SingleWinner bool
}

var (
	// ErrMismatch is in the errors of Union, Intersect and the reading methods when two filters
	// differ in kind, size or hash.
	ErrMismatch = errors.New("filters do not match")
	// ErrCorrupt is in the error of reading something that is not a stored filter, or was
	// changed since it was written.
	ErrCorrupt = errors.New("not a stored filter, or damaged")
	// ErrTooLarge is in the error of making or reading a filter that takes more than MaxBytes.
	ErrTooLarge = errors.New("over MaxBytes")
	// ErrNotStorable is in the error of storing a filter whose hash no other process has.
	ErrNotStorable = errors.New("hash differs in every process")
)

// defaultMaxBytes is MaxBytes where none is given.
const defaultMaxBytes = 1 << 30

// mostBytes is more than any machine has, and less than what make refuses.
const mostBytes = 1 << 46

// check returns an error for what no filter can be, or none of this kind, and fills in what is not
// given.
func (c *Config[K]) check(kind string, leastFPR float64) error {
	if c.N < 1 {
		return fmt.Errorf("bloom: N must be at least 1, got %d", c.N)
	}
	if !(c.FPR > 0 && c.FPR < 1) {
		return fmt.Errorf("bloom: FPR must be more than 0 and less than 1, got %v", c.FPR)
	}
	if c.SingleWinner && kind != "Concurrent" && kind != "Rotating" {
		return fmt.Errorf("bloom: SingleWinner is for a Concurrent or a Rotating, not for a %s", kind)
	}
	if c.FPR < leastFPR {
		if c.SingleWinner {
			return fmt.Errorf("bloom: FPR of a %s with SingleWinner must be at least %v, got %v", kind, leastFPR, c.FPR)
		}
		return fmt.Errorf("bloom: FPR of a %s must be at least %v, got %v: Classic goes lower", kind, leastFPR, c.FPR)
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = defaultMaxBytes
	}
	c.MaxBytes = min(c.MaxBytes, math.MaxInt, mostBytes)
	return c.Hash.resolve()
}

// tooLarge is the error for a filter that would need so many bytes.
func (c *Config[K]) tooLarge(bytes float64) error {
	if math.IsInf(bytes, 1) {
		return fmt.Errorf("bloom: N = %d with FPR = %v takes more memory than there is: %w", c.N, c.FPR, ErrTooLarge)
	}
	return fmt.Errorf("bloom: N = %d with FPR = %v takes %.0f bytes, MaxBytes is %d: %w", c.N, c.FPR, bytes, c.MaxBytes, ErrTooLarge)
}
