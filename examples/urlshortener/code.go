package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/sysblocks/sysblocks/shard"
)

// A coder proposes codes for a target, one after the other, until one is free. It must be safe for concurrent use.
type coder interface {
	// propose returns the code of the given try, from 0 on. If same, a link with that code and the same
	// target is this very link, and may be returned in place of a new one.
	propose(ctx context.Context, target string, try int) (code string, same bool, err error)
}

// codeOf writes a number below codeSpace as a code: seven digits.
func codeOf(n uint64) string {
	s := shard.Base62(n)
	return strings.Repeat("0", codeLength-len(s)) + s
}

// A counterCoder numbers links, and permutes the numbers. No two of its codes are alike, so the first is free unless
// somebody has chosen it as an alias, or the first database was restored from a backup, and its numbers come again. Of
// those there may be many in a row: so if a second one is taken as well, codes are random. Numbers come from the database in blocks, which the processes do not share;
// what is left of a block when a process ends is never used.
type counterCoder struct {
	permutation *permutation
	block       func(ctx context.Context, n uint64) (first uint64, err error)

	mu        sync.Mutex
	next, end uint64
	fetching  chan struct{} // closed when somebody who asks for a block has it, or has failed; nil if nobody does
}

// blockSize is how many numbers are taken at once: at 40 links a second, a write for all of them in 25 seconds.
const blockSize = 1000

var errNoCodes = errors.New("all codes are used up")

func (c *counterCoder) propose(ctx context.Context, target string, try int) (string, bool, error) {
	if try > 1 {
		return randomCoder{}.propose(ctx, target, try)
	}
	n, err := c.number(ctx)
	if err != nil {
		return "", false, err
	}
	return codeOf(c.permutation.forward(n)), false, nil
}

// number returns the next number. One caller asks for a block, and the others wait for it, without a lock.
func (c *counterCoder) number(ctx context.Context) (uint64, error) {
	for {
		c.mu.Lock()
		if c.next < c.end {
			n := c.next
			c.next++
			c.mu.Unlock()
			return n, nil
		}
		wait := c.fetching
		if wait == nil {
			done := make(chan struct{})
			c.fetching = done
			c.mu.Unlock()
			err := c.fetch(ctx, done)
			if err != nil {
				return 0, err
			}
			continue
		}
		c.mu.Unlock()
		select {
		case <-wait: // if that has failed, the next asks for himself
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

func (c *counterCoder) fetch(ctx context.Context, done chan struct{}) (err error) {
	var first uint64
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if err == nil && first < codeSpace {
			c.next, c.end = first, min(first+blockSize, codeSpace)
		}
		c.fetching = nil
		close(done)
	}()
	err = errors.New("asking for a block of numbers has panicked") // unless it returns
	first, err = c.block(ctx, blockSize)
	if err == nil && first >= codeSpace {
		err = errNoCodes
	}
	return err
}

// A randomCoder proposes random codes. With n links, a proposal is taken with probability n/62^7.
type randomCoder struct{}

func (randomCoder) propose(context.Context, string, int) (string, bool, error) {
	for {
		var b [8]byte
		_, _ = rand.Read(b[:])                                                         // never fails
		if n := binary.LittleEndian.Uint64(b[:]) >> (64 - 2*halfBits); n < codeSpace { // all are equally likely
			return codeOf(n), false, nil
		}
	}
}

// A hashCoder hashes the target, so that the same target has the same code; and with the number of the try, if
// that is another target's. The codes of a target are also taken by links to it that are somebody else's, expire at
// another time, or are gone: after some of them, a code is random, or nobody could have a link to that target any more.
type hashCoder struct {
	key []byte // so that nobody can look for targets whose codes collide
}

// maxHashes is how many codes a target has.
const maxHashes = 5

func (c hashCoder) propose(ctx context.Context, target string, try int) (string, bool, error) {
	if try >= maxHashes {
		return randomCoder{}.propose(ctx, target, try)
	}
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "%d %d:", len(c.key), try)
	_, _ = h.Write(c.key)
	_, _ = h.Write([]byte(target))
	// Of 64 bits modulo 62^7, the least likely code is less likely than the others by 2·10^-7.
	return codeOf(binary.LittleEndian.Uint64(h.Sum(nil)) % codeSpace), true, nil
}
