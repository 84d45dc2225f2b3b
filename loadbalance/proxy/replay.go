package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// ErrRequestBody is in the errors of requests whose body could not be read: it is the caller's failure,
// and no endpoint's.
var ErrRequestBody = errors.New("loadbalance/proxy: the request's body cannot be read")

var (
	errStaleBody = errors.New("loadbalance/proxy: the request is being sent elsewhere")
	errNoReplay  = errors.New("loadbalance/proxy: too much of the request's body has been sent to send it again")
)

// A replay is the body of a request that can be sent more than once, as long as no more than max bytes
// of it have been read: those are kept, and the next try reads them before what follows. If nothing has
// been read, max need not be more than 0.
//
// A base Transport may go on reading, and may close the body, after it has returned. So each try reads
// through a reader of its own, which has a number; with the next one, those before read no more.
type replay struct {
	src   io.ReadCloser
	max   int
	state atomic.Uint64 // the number of the current reader << 1 | there can be no other
	done  atomic.Bool   // there will be no other
	shut  atomic.Uint64 // the number of the last reader that was closed, and one more
	once  sync.Once     // closes src
	progress

	mu   sync.Mutex // held while src is read, so that one reader has it at a time
	kept []byte     // all that was read, while there can be another reader
	err  error      // what src returned last, or nil
}

// A progress is what is known of the body that the caller provides, while tries send it.
type progress struct {
	fails atomic.Bool  // it has returned an error
	waits atomic.Bool  // it is being read
	start time.Time    // zero: nobody asks for idle
	last  atomic.Int64 // when a try has begun or read of it, in nanoseconds since start
}

// moved says that a try has begun, or has got something.
func (p *progress) moved() {
	if !p.start.IsZero() {
		p.last.Store(int64(time.Since(p.start)))
	}
}

// idle returns for how long the body has not been read. While the caller is waited for, that is 0.
func (p *progress) idle() time.Duration {
	if p.waits.Load() {
		return 0
	}
	return time.Since(p.start) - time.Duration(p.last.Load())
}

// read reads from src, which is the caller's. It has not failed if it was closed meanwhile.
func (p *progress) read(src io.Reader, b []byte, closed *atomic.Bool) (int, error) {
	p.waits.Store(true)
	n, err := src.Read(b)
	p.moved()
	p.waits.Store(false)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("%w: %w", ErrRequestBody, err)
		p.fails.Store(closed == nil || !closed.Load())
	}
	return n, err
}

// A watched is a body from GetBody of a request, or the first one. Each try has one, and a progress, of
// its own: one that Base goes on to read after its try says nothing of the next.
type watched struct {
	src    io.ReadCloser
	p      *progress
	closed atomic.Bool
}

func (w *watched) Read(b []byte) (int, error) {
	return w.p.read(w.src, b, &w.closed)
}

// Close closes the body. What is read then fails for that, and not for what the caller did: Base closes it
// when the endpoint breaks off.
func (w *watched) Close() error {
	w.closed.Store(true)
	return w.src.Close()
}

var (
	nopCloser         = reflect.TypeOf(io.NopCloser(struct{ io.Reader }{}))
	nopCloserWriterTo = reflect.TypeOf(io.NopCloser(new(bytes.Reader)))
)

// inMemory reports whether a body is one that http.NewRequest knows: then nobody need watch it, as it
// does not fail, and package net/http sends it with the header, in one piece, if it can see what it is.
func inMemory(r io.Reader) bool {
	switch r.(type) {
	case *bytes.Reader, *bytes.Buffer, *strings.Reader:
		return true
	}
	if t := reflect.TypeOf(r); t == nopCloser || t == nopCloserWriterTo {
		r, ok := reflect.ValueOf(r).Field(0).Interface().(io.Reader)
		return ok && inMemory(r)
	}
	return false
}

// newReplay returns a replay of src, which has size bytes, or a number that is not known if it is negative.
func newReplay(src io.ReadCloser, size, most int64) *replay {
	r := &replay{src: src, max: int(min(most, math.MaxInt32))}
	if n := min(size, int64(r.max)); n > 0 {
		r.kept = make([]byte, 0, n)
	}
	return r
}

// first returns the reader of the first try.
func (r *replay) first() *replayReader { return &replayReader{r: r} }

// spoiled reports whether there can be no other reader.
func (r *replay) spoiled() bool { return r.state.Load()&1 != 0 || r.fails.Load() }

// next returns another reader, or nil if there cannot be one.
func (r *replay) next() *replayReader {
	for {
		s := r.state.Load()
		if s&1 != 0 || r.fails.Load() {
			return nil
		}
		if r.state.CompareAndSwap(s, s+2) {
			return &replayReader{r: r, number: s>>1 + 1}
		}
	}
}

// getBody is GetBody of http.Request.
func (r *replay) getBody() (io.ReadCloser, error) {
	if next := r.next(); next != nil {
		return next, nil
	}
	return nil, errNoReplay
}

// finish says that there will be no other try. After one without an answer, src is closed at once;
// otherwise when the reader is, or was.
func (r *replay) finish(answered bool) {
	r.done.Store(true)
	if !answered || r.shut.Load() == r.state.Load()>>1+1 {
		r.once.Do(func() { r.src.Close() })
	}
}

// A replayReader is a body for one try.
type replayReader struct {
	r      *replay
	number uint64
	off    int // in kept
}

func (b *replayReader) Read(p []byte) (int, error) {
	r := b.r
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.state.Load()
	if s>>1 != b.number {
		return 0, errStaleBody
	}
	if s&1 == 0 && b.off < len(r.kept) {
		n := copy(p, r.kept[b.off:])
		b.off += n
		r.moved()
		return n, nil
	}
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.read(r.src, p, nil)
	if err != nil {
		r.err = err
	}
	if n <= 0 || s&1 != 0 {
		return n, err
	}
	if len(r.kept)+n > r.max && r.state.CompareAndSwap(s, s|1) {
		r.kept = nil
		return n, err
	}
	// There may be another reader by now: then it needs these bytes, however many they are.
	r.kept = append(r.kept, p[:n]...)
	b.off += n
	return n, err
}

// Close closes src if there will be no other try.
func (b *replayReader) Close() error {
	r := b.r
	if r.state.Load()>>1 != b.number {
		return nil
	}
	r.shut.Store(b.number + 1)
	if r.done.Load() {
		r.once.Do(func() { r.src.Close() })
	}
	return nil
}
