package proxy

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// relayBuffer is how much is read at a time. Two of them are held by each connection, also while it
	// is idle.
	relayBuffer = 16 << 10
	// chunk is how much is spliced at a time. A deadline that passes while the other side takes nothing
	// loses what is in the pipe; so that must be little enough that whoever takes it slowly has time.
	chunk = 128 << 10
	// lull is after how long without a byte splicing ends.
	lull = 100 * time.Millisecond
)

var relayPool = sync.Pool{New: func() any { return new([relayBuffer]byte) }}

// pump copies from src to dst until src has sent all, which it tells dst. It counts the bytes as they move.
//
// Between TCP connections on Linux it has the kernel move them, with splice(2), as soon as they come faster
// than they are copied. Not always, as net.TCPConn does: a splice that waits holds a pipe, which
// is two files, and up to 1 MiB that counts against a limit of the user; with thousands of connections that
// are mostly idle, there are none left for those that have something to send.
func (k *link) pump(dst, src net.Conn, moved *int64, total *atomic.Uint64) error {
	to, from := spliceable(dst), spliceable(src)
	limited := io.LimitedReader{R: from}
	array := relayPool.Get().(*[relayBuffer]byte)
	defer relayPool.Put(array)
	buf := array[:]
	idle, lull := k.p.config.IdleTimeout, lull
	if idle > 0 {
		lull = min(lull, idle/2)
	}
	count := func(n int64) {
		*moved += n
		total.Add(uint64(n))
		if idle > 0 {
			k.last.Store(int64(time.Since(k.start)))
		}
	}
	k.arm(dst, src, idle)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			written, failed := dst.Write(buf[:n])
			count(int64(written))
			if failed != nil {
				return &writeError{k.late(failed)}
			}
		}
		switch {
		case err == io.EOF:
			closeWrite(dst)
			return nil
		case err != nil && idle > 0 && errors.Is(err, os.ErrDeadlineExceeded):
			if k.left(idle) <= 0 {
				return errIdle
			}
			k.arm(dst, src, idle)
			continue
		case err != nil:
			return err
		case n < len(buf) || to == nil || from == nil:
			continue
		}

		// It comes fast.
		for quiet := false; !quiet; {
			now := time.Now()
			src.SetReadDeadline(now.Add(lull))
			if idle > 0 {
				dst.SetWriteDeadline(now.Add(lull + idle))
			}
			quiet = true
			for {
				limited.N = chunk
				n, err := to.ReadFrom(&limited)
				if n > 0 {
					quiet = false
					count(n)
				}
				if err == nil && limited.N > 0 {
					closeWrite(dst)
					return nil
				}
				if err == nil {
					continue
				}
				// A deadline for writing has passed only if it is late enough for that; the one for
				// reading always is before.
				if !errors.Is(err, os.ErrDeadlineExceeded) || idle > 0 && time.Since(now) >= lull+idle {
					return k.late(err)
				}
				break
			}
		}
		if idle > 0 {
			k.arm(dst, src, idle)
		} else {
			src.SetReadDeadline(time.Time{})
		}
	}
}

// A writeError is that of the side that bytes are written to. (That of splicing may be, too.)
type writeError struct{ error }

func (e *writeError) Unwrap() error { return e.error }

// arm sets deadlines: for reading, when the connection would be idle for too long; and for writing, so
// much later that it cannot pass while there is time for reading.
func (k *link) arm(dst, src net.Conn, idle time.Duration) {
	if idle <= 0 {
		return
	}
	now := time.Now()
	src.SetReadDeadline(now.Add(max(k.left(idle), 0)))
	dst.SetWriteDeadline(now.Add(2 * idle))
}

// left returns how long no byte may move from now on.
func (k *link) left(idle time.Duration) time.Duration {
	return time.Duration(k.last.Load()) + idle - time.Since(k.start)
}

// late returns errIdle for a deadline that has passed while writing.
func (k *link) late(err error) error {
	if k.p.config.IdleTimeout > 0 && errors.Is(err, os.ErrDeadlineExceeded) {
		return errIdle
	}
	return err
}

// spliceable returns the connection of TCP that splice(2) can be used with, or nil.
func spliceable(c net.Conn) *net.TCPConn {
	tcp, ok := c.(*net.TCPConn)
	if !ok || runtime.GOOS != "linux" {
		return nil
	}
	if multipath, err := tcp.MultipathTCP(); multipath || err != nil {
		return nil
	}
	return tcp
}

// closeWrite tells the other side that all was sent. A connection that cannot be closed in one
// direction is closed.
func closeWrite(c net.Conn) {
	if w, ok := c.(interface{ CloseWrite() error }); ok {
		w.CloseWrite()
		return
	}
	c.Close()
}
