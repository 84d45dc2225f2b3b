package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

func TestReplay(t *testing.T) {
	src := &closeCounter{ReadCloser: io.NopCloser(iotest.OneByteReader(strings.NewReader("hello world"))), closed: func() {}}
	r := newReplay(src, -1, 8)
	a := r.first()
	got, err := io.ReadAll(io.LimitReader(a, 5))
	require.NoError(t, err)
	require.Equal(t, "hello", string(got))
	require.NoError(t, a.Close())
	require.False(t, src.done)

	b := r.next()
	require.NotNil(t, b)
	_, err = a.Read(make([]byte, 1))
	require.ErrorIs(t, err, errStaleBody)
	got, err = io.ReadAll(io.LimitReader(b, 8))
	require.NoError(t, err)
	require.Equal(t, "hello wo", string(got))
	require.False(t, r.spoiled())

	c, err := r.getBody()
	require.NoError(t, err)
	got, err = io.ReadAll(c)
	require.NoError(t, err)
	require.Equal(t, "hello world", string(got))
	require.True(t, r.spoiled())
	require.Nil(t, r.next())
	_, err = r.getBody()
	require.ErrorIs(t, err, errNoReplay)
	require.Nil(t, r.kept)

	require.NoError(t, b.Close()) // of before: means nothing
	r.finish(true)
	require.NoError(t, b.Close())
	require.False(t, src.done)
	require.NoError(t, c.Close())
	require.True(t, src.done)
}

// The source is closed once, whatever comes first.
func TestReplayClose(t *testing.T) {
	for i, f := range []func(r *replay, b *replayReader){
		func(r *replay, b *replayReader) { r.finish(false) },
		func(r *replay, b *replayReader) { r.finish(false); b.Close(); b.Close() },
		func(r *replay, b *replayReader) { b.Close(); r.finish(true) },
		func(r *replay, b *replayReader) { r.finish(true); b.Close() },
	} {
		n := 0
		r := newReplay(closeFunc{strings.NewReader("x"), func() { n++ }}, 1, 0)
		f(r, r.first())
		require.Equal(t, 1, n, i)
	}
}

type closeFunc struct {
	io.Reader
	f func()
}

func (c closeFunc) Close() error { c.f(); return nil }

// A try still reads while the next has begun: no byte is lost, and none comes twice.
func TestReplayReadInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pr, pw := io.Pipe()
		r := newReplay(pr, -1, 4)
		var wg sync.WaitGroup
		a := r.first()
		wg.Go(func() {
			buf := make([]byte, 10)
			n, err := a.Read(buf) // more than can be kept; but when it comes there is another reader
			require.NoError(t, err)
			require.Equal(t, "0123456789", string(buf[:n]))
			_, err = a.Read(buf)
			require.ErrorIs(t, err, errStaleBody)
		})
		synctest.Wait()
		b := r.next()
		require.NotNil(t, b)
		wg.Go(func() {
			got, err := io.ReadAll(b)
			require.NoError(t, err)
			require.Equal(t, "0123456789abc", string(got))
		})
		pw.Write([]byte("0123456789"))
		pw.Write([]byte("abc"))
		pw.Close()
		wg.Wait()
		r.finish(true)
		b.Close()
	})
}

// Random reads by random tries are those of a slice.
func TestReplayModel(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		data := make([]byte, rnd.IntN(200))
		for i := range data {
			data[i] = byte(rnd.Uint32())
		}
		most := rnd.IntN(100)
		r := newReplay(io.NopCloser(iotest.HalfReader(bytes.NewReader(data))), int64(rnd.IntN(300)-1), int64(most))
		b, off, read := r.first(), 0, 0
		for range 50 {
			if rnd.IntN(6) == 0 {
				next := r.next()
				require.Equal(t, read <= most, next != nil, "seed %d", seed)
				if next != nil {
					b, off = next, 0
				}
				continue
			}
			buf := make([]byte, 1+rnd.IntN(30))
			n, err := b.Read(buf)
			require.Equal(t, data[off:off+n], buf[:n], "seed %d", seed)
			off += n
			read = max(read, off)
			if err != nil {
				require.Equal(t, io.EOF, err)
				require.Equal(t, len(data), off, "seed %d", seed)
			}
		}
	}
}

func TestReplayError(t *testing.T) {
	own := errors.New("own")
	r := newReplay(io.NopCloser(io.MultiReader(strings.NewReader("x"), errReader{own})), -1, 100)
	b := r.first()
	_, err := io.ReadAll(b)
	require.ErrorIs(t, err, own)
	require.ErrorIs(t, err, ErrRequestBody)
	_, again := b.Read(make([]byte, 1))
	require.Equal(t, fmt.Sprint(err), fmt.Sprint(again))
	require.True(t, r.spoiled())
	require.Nil(t, r.next())
}
