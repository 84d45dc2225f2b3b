package main

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
)

const (
	codeLength = 7
	// codeSpace is the number of codes: 62^7, about 3.5 trillion.
	codeSpace = 62 * 62 * 62 * 62 * 62 * 62 * 62
)

// A permutation turns the numbers below codeSpace into each other, so that who has seen some codes cannot tell the
// next one, though a counter makes them.
//
// It is a Feistel network over 42 bits, the least even number that has room for all of them, with AES as the
// round function, walked until the result is one of the numbers (J. Black and P. Rogaway, "Ciphers with
// Arbitrary Finite Domains", 2002): as the network is a bijection of 2^42 numbers, that is one of those below
// codeSpace, and takes 1.25 walks in the mean. Ten rounds are what NIST's FF1 has.
type permutation struct {
	block cipher.Block
}

const (
	halfBits = 21
	halfMask = 1<<halfBits - 1
	rounds   = 10
)

// newPermutation returns the permutation of a key of 16, 24 or 32 bytes.
func newPermutation(key []byte) (*permutation, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("the key of codes must have 16, 24 or 32 bytes, got %d", len(key))
	}
	return &permutation{block}, nil
}

// forward returns what n becomes, which is below codeSpace as n is.
func (p *permutation) forward(n uint64) uint64 {
	for {
		l, r := n>>halfBits, n&halfMask
		for i := range uint64(rounds) {
			l, r = r, l^p.round(i, r)
		}
		if n = l<<halfBits | r; n < codeSpace {
			return n
		}
	}
}

// backward returns the number that becomes n.
func (p *permutation) backward(n uint64) uint64 {
	for {
		l, r := n>>halfBits, n&halfMask
		for i := uint64(rounds); i > 0; i-- {
			l, r = r^p.round(i-1, l), l
		}
		if n = l<<halfBits | r; n < codeSpace {
			return n
		}
	}
}

func (p *permutation) round(i, half uint64) uint64 {
	var b [aes.BlockSize]byte
	binary.LittleEndian.PutUint64(b[:8], half)
	binary.LittleEndian.PutUint64(b[8:], i)
	p.block.Encrypt(b[:], b[:])
	return binary.LittleEndian.Uint64(b[:8]) & halfMask
}
