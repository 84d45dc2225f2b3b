package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

const (
	defaultBodyIdleTimeout = 30 * time.Second
	lastWrites             = time.Second // for what is still to be written when the time of a request is over
)

// A stream keeps clients from holding a request for ever: by sending nothing of a body that is waited
// for, by taking nothing of an answer, or by doing either when the time of the request is over. For
// that the context of the request is not enough, as nothing that reads or writes looks at it.
type stream struct {
	c     *http.ResponseController
	idle  time.Duration
	http1 bool

	mu       sync.Mutex
	whole    bool      // the body has been read to its end, or there is none
	until    time.Time // when the Read that is waited for, or was the last to fail, fails; zero: none
	timedOut bool      // the time was over before the body was whole
	end      time.Time // when all must be written; zero: nobody knows
	ended    bool      // the handler is: the connection is somebody else's
}

type streamKey struct{}

// streamOf returns the stream of a request, which limitStalls has made.
func streamOf(r *http.Request) *stream { return r.Context().Value(streamKey{}).(*stream) }

// limitStalls ends a request whose client sends nothing, or takes nothing, for so long.
func limitStalls(idle time.Duration, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := &stream{
			c: http.NewResponseController(w), idle: idle, http1: r.ProtoMajor == 1,
			whole: r.Body == nil || r.Body == http.NoBody,
		}
		r = r.WithContext(context.WithValue(r.Context(), streamKey{}, s))
		if !s.whole {
			r.Body = &streamBody{s, r.Body}
			s.lingering()
		}
		defer s.done()
		next.ServeHTTP(&streamWriter{w, s}, r)
	})
}

// lingering limits how long the server waits for what is left of a body that nobody has read: with
// HTTP/1.1 it does so before it writes an answer.
func (s *stream) lingering() {
	if s.http1 {
		_ = s.c.SetReadDeadline(time.Now().Add(s.idle)) // an error: the connection cannot, as in a test
	}
}

// done is called at the end of the handler: then the server writes what is still in its buffers.
func (s *stream) done() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	_ = s.c.SetWriteDeadline(s.writeUntilLocked())
	if !s.whole && !s.timedOut {
		s.lingering()
	}
}

func (s *stream) writeUntilLocked() time.Time {
	t := time.Now().Add(s.idle)
	if s.http1 && !s.whole {
		t = t.Add(s.idle) // the server may wait for what is left of the body before it writes
	}
	if !s.end.IsZero() && s.end.Before(t) {
		return s.end
	}
	return t
}

// expire is called when the time of a request is over: nobody waits for more of the body, and the answer
// must be written soon.
func (s *stream) expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	s.end = time.Now().Add(lastWrites)
	_ = s.c.SetWriteDeadline(s.end)
	s.giveUpBodyLocked()
}

// giveUpBodyLocked has Reads of the body fail. Of one that is whole there are none, and then it is
// for the server to read: it would take a failure for the client's going.
func (s *stream) giveUpBodyLocked() {
	if !s.whole {
		s.timedOut = true
		_ = s.c.SetReadDeadline(time.Unix(1, 0))
	}
}

// giveUpBody says that the time is over for what is left of the body, and reports whether there is any.
func (s *stream) giveUpBody() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.giveUpBodyLocked()
	}
	return !s.whole
}

// stalled reports whether more of the body is waited for, or was when that failed, and for how long:
// the whole of idle, or until the time was over.
func (s *stream) stalled() (idle, timedOut bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.timedOut && !s.until.IsZero() && !time.Now().Before(s.until), s.timedOut
}

// A streamBody is a body of which each piece must come in time.
type streamBody struct {
	s    *stream
	body io.ReadCloser
}

// Read reads the next piece.
func (b *streamBody) Read(p []byte) (int, error) {
	s := b.s
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return 0, http.ErrBodyReadAfterClose
	}
	if !s.whole && !s.timedOut {
		s.until = time.Now().Add(s.idle)
		_ = s.c.SetReadDeadline(s.until)
	}
	s.mu.Unlock()

	n, err := b.body.Read(p)

	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil || errors.Is(err, io.EOF) {
		s.until = time.Time{}
	}
	if errors.Is(err, io.EOF) {
		s.whole = true
	}
	// HTTP/1.1's server now reads, to see whether the client goes; with HTTP/2 the time is over for
	// the body even if nobody reads.
	if !s.ended && (s.whole || err == nil && !s.timedOut && !s.http1) {
		_ = s.c.SetReadDeadline(time.Time{})
	}
	return n, err
}

// Close does nothing with HTTP/1.1, where it would read on: the server does so at the end.
func (b *streamBody) Close() error {
	if b.s.http1 {
		return nil
	}
	return b.body.Close()
}

// A streamWriter is a response of which each piece must be taken in time.
type streamWriter struct {
	http.ResponseWriter
	s *stream
}

// Unwrap is for http.ResponseController.
func (w *streamWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader writes the header, those of 1xx at once.
func (w *streamWriter) WriteHeader(code int) {
	w.s.write(func() { w.ResponseWriter.WriteHeader(code) })
}

// Write writes a piece.
func (w *streamWriter) Write(p []byte) (n int, err error) {
	w.s.write(func() { n, err = w.ResponseWriter.Write(p) })
	return n, err
}

// FlushError writes what is in the server's buffers.
func (w *streamWriter) FlushError() (err error) {
	w.s.write(func() { err = w.s.c.Flush() })
	return err
}

// write calls f, which may write. In between there is no deadline, as with HTTP/2 it would be over
// also for an answer that nothing is to be written of yet.
func (s *stream) write(f func()) {
	s.mu.Lock()
	_ = s.c.SetWriteDeadline(s.writeUntilLocked())
	s.mu.Unlock()
	f()
	s.mu.Lock()
	_ = s.c.SetWriteDeadline(s.end)
	// With HTTP/2 a client may take answers while it leaves its side open, as in a gRPC stream: as long as
	// there are some, it is not one that has stalled.
	if !s.http1 && !s.whole && !s.timedOut && !s.ended && !s.until.IsZero() {
		s.until = time.Now().Add(s.idle)
		_ = s.c.SetReadDeadline(s.until)
	}
	s.mu.Unlock()
}

// withTimeout gives a request so long, and ends it then, also if it is its client that is waited for. (The
// time of a try does not run while it is.)
func withTimeout(d time.Duration, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), d)
		defer cancel()
		s := streamOf(r)
		stop := context.AfterFunc(ctx, func() {
			if errors.Is(ctx.Err(), context.DeadlineExceeded) { // otherwise the client has gone
				s.expire()
			}
		})
		defer stop() // before cancel
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}
