package main

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var errDown = errors.New("down")

// newSpool opens a spool, and closes it when the test ends.
func newSpool(t *testing.T, dir string, max int64) *spool {
	t.Helper()
	s, err := openSpool(dir, max, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.close()) })
	return s
}

func numbered(n int) clickGroup {
	return clickGroup{"run", uint64(n), []click{{Code: "abc", Day: int64(n)}}}
}

// numbers returns the groups that a spool delivers, and that there are no others left.
func numbers(t *testing.T, s *spool) (all []int) {
	t.Helper()
	require.NoError(t, s.replay(func(g clickGroup) error {
		require.Equal(t, numbered(int(g.Number)), g)
		all = append(all, int(g.Number))
		return nil
	}))
	require.Zero(t, s.bytes())
	return all
}

func to(n int) (all []int) {
	for i := range n {
		all = append(all, i)
	}
	return all
}

func files(t *testing.T, dir, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	require.NoError(t, err)
	return found
}

func TestSpool(t *testing.T) {
	dir := t.TempDir()
	s := newSpool(t, dir, 1000)
	kept := 0
	for ; ; kept++ {
		if err := s.add(numbered(kept)); err != nil {
			require.ErrorIs(t, err, errSpoolFull)
			break
		}
	}
	require.Greater(t, kept, 10)
	require.LessOrEqual(t, s.bytes(), int64(1000))

	// What is not delivered stays whole, and comes again.
	got := 0
	require.ErrorIs(t, s.replay(func(clickGroup) error {
		if got == 3 {
			return errDown
		}
		got++
		return nil
	}), errDown)
	require.Positive(t, s.bytes())
	require.ErrorIs(t, s.add(numbered(99)), errSpoolFull) // the file is as long as before

	// After a restart, what a file has is delivered again, in order, and before what comes now.
	require.NoError(t, s.close())
	s = newSpool(t, dir, 2000)
	require.NoError(t, s.add(numbered(kept)))
	require.Equal(t, to(kept+1), numbers(t, s))
	require.NoError(t, s.replay(func(clickGroup) error { return errDown })) // there is nothing
	require.Empty(t, files(t, dir, "*"))
	require.NoError(t, s.add(numbered(0)))
	require.Equal(t, to(1), numbers(t, s))
}

// TestSpoolSegments has more than a file, a broker that takes one group at a time, and groups that are added between:
// each is delivered once, and no file is there for longer than it must be.
func TestSpoolSegments(t *testing.T) {
	dir := t.TempDir()
	s := newSpool(t, dir, 1<<30)
	add := func(n int) {
		t.Helper()
		require.NoError(t, s.add(clickGroup{"run", uint64(n), []click{{Referrer: strings.Repeat("x", 1<<20)}}}))
	}
	for n := range 20 {
		add(n)
	}
	require.Len(t, files(t, dir, "*.spool"), 5)
	tries := 0
	for n := range 30 {
		delivered := false
		err := s.replay(func(g clickGroup) error {
			tries++
			if delivered {
				return errDown
			}
			require.EqualValues(t, n, g.Number)
			delivered = true
			return nil
		})
		require.True(t, delivered)
		require.LessOrEqual(t, len(files(t, dir, "*.spool")), 25/4+1)
		if n < 29 {
			require.ErrorIs(t, err, errDown)
		} else {
			require.NoError(t, err)
		}
		if n < 10 {
			add(20 + n)
		}
	}
	require.Less(t, tries, 60) // and not all that is left, each time
	require.Zero(t, s.bytes())
	require.Empty(t, files(t, dir, "*"))
}

// TestSpoolAddWhileDelivering adds a group whenever one is delivered, from within.
func TestSpoolAddWhileDelivering(t *testing.T) {
	dir := t.TempDir()
	s := newSpool(t, dir, 1<<20)
	require.NoError(t, s.add(numbered(0)))
	var got []int
	require.NoError(t, s.replay(func(g clickGroup) error {
		got = append(got, int(g.Number))
		if len(got) < 50 {
			return s.add(numbered(len(got)))
		}
		return nil
	}))
	require.Equal(t, to(50), got)
	require.Empty(t, files(t, dir, "*"))
}

// TestSpoolTorn has a process that was killed at any point of its last write: what was kept before is delivered.
func TestSpoolTorn(t *testing.T) {
	dir := t.TempDir()
	s := newSpool(t, dir, 1<<20)
	require.NoError(t, s.add(numbered(0)))
	require.NoError(t, s.add(numbered(1)))
	two := s.bytes()
	require.NoError(t, s.add(numbered(2)))
	require.NoError(t, s.close())
	file := files(t, dir, "*")[0]
	body, err := os.ReadFile(file)
	require.NoError(t, err)
	for cut := two; cut < int64(len(body)); cut++ {
		for _, zeros := range []int{0, 1, 100} { // a file may be longer than what was written to it
			require.NoError(t, os.WriteFile(file, append(bytes.Clone(body[:cut]), make([]byte, zeros)...), 0o600))
			s := newSpool(t, dir, 1<<20)
			require.NoError(t, s.add(numbered(2)))
			require.Equal(t, to(3), numbers(t, s), "cut at %d", cut)
			require.Empty(t, files(t, dir, "*"))
		}
	}
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.Zero(t, newSpool(t, dir, 1<<20).bytes())
	require.Empty(t, files(t, dir, "*"))
}

// TestSpoolDamaged changes any byte of a record in the middle: all others are delivered, though the broker goes away
// between, and the file is kept.
func TestSpoolDamaged(t *testing.T) {
	dir := t.TempDir()
	s := newSpool(t, dir, 1<<20)
	var ends []int64
	for n := range 4 {
		require.NoError(t, s.add(numbered(n)))
		ends = append(ends, s.bytes())
	}
	require.NoError(t, s.close())
	file := files(t, dir, "*")[0]
	body, err := os.ReadFile(file)
	require.NoError(t, err)
	for at := ends[0]; at < ends[1]; at++ {
		wrong := bytes.Clone(body)
		wrong[at] ^= 0x40
		require.NoError(t, os.WriteFile(file, wrong, 0o600))
		var log bytes.Buffer
		s, err := openSpool(dir, 1<<20, slog.New(slog.NewTextHandler(&log, nil)))
		require.NoError(t, err)
		var got []uint64
		down := false
		deliver := func(g clickGroup) error {
			if down = !down; down {
				return errDown
			}
			got = append(got, g.Number)
			return nil
		}
		for range 3 {
			require.ErrorIs(t, s.replay(deliver), errDown)
		}
		require.NoError(t, s.replay(deliver))
		require.Equal(t, []uint64{0, 2, 3}, got)
		require.Contains(t, log.String(), "is damaged")
		require.Contains(t, log.String(), file)
		aside, err := os.ReadFile(file + damaged)
		require.NoError(t, err)
		require.Equal(t, wrong, aside)
		require.NoError(t, s.close())
		// What comes next does not take its place.
		s = newSpool(t, dir, 1<<20)
		require.Zero(t, s.bytes())
		require.NoError(t, s.add(numbered(0)))
		require.NotContains(t, files(t, dir, "*.spool"), file)
		require.Equal(t, to(1), numbers(t, s))
		require.NoError(t, os.Remove(file+damaged))
	}
}

// A file that cannot be read is found at the start; one that cannot be read later keeps no other from being delivered.
func TestSpoolUnreadable(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(dir, "clicks-1.spool") // not one of the spool's
	require.NoError(t, os.WriteFile(other, []byte("hello"), 0o600))
	name := filepath.Join(dir, fmt.Sprintf(segmentFormat, 1))
	require.NoError(t, os.Mkdir(name, 0o700))
	code, _, stderr := command(t, nil, "-addr=127.0.0.1:0", "-dir="+dir)
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "the spool cannot be opened")
	require.Contains(t, stderr, name+": is a directory")
	require.Equal(t, 1, strings.Count(stderr, "\n"), stderr)

	require.NoError(t, os.Remove(name))
	s := newSpool(t, dir, 1<<30)
	for n := range 3 {
		for _, number := range []int{n, n + 10} {
			require.NoError(t, s.add(clickGroup{"run", uint64(number), []click{{Referrer: strings.Repeat("x", segmentBytes*2/3)}}}))
		}
	}
	found := files(t, dir, "clicks-0*.spool")
	require.Len(t, found, 3)
	require.NoError(t, os.Remove(found[0])) // it is a directory now
	require.NoError(t, os.Mkdir(found[0], 0o700))
	require.NoError(t, os.Remove(found[1])) // and this is not there any more
	var got []uint64
	require.NoError(t, s.replay(func(g clickGroup) error { got = append(got, g.Number); return nil }))
	require.Equal(t, []uint64{2, 12}, got)
	require.Zero(t, s.bytes())
	require.DirExists(t, found[0]+damaged)
	require.FileExists(t, other)
}

// A faultyFile is a file whose disk fails now and then.
type faultyFile struct {
	*os.File
	fails func() bool
}

func (f faultyFile) WriteAt(b []byte, at int64) (int, error) {
	if f.fails() {
		n, _ := f.File.WriteAt(b[:len(b)/2], at)
		return n, errors.New("no space left on device")
	}
	return f.File.WriteAt(b, at)
}

func (f faultyFile) Sync() error {
	if f.fails() {
		return errors.New("input/output error when syncing")
	}
	return f.File.Sync()
}

func (f faultyFile) Truncate(size int64) error {
	if f.fails() {
		return errors.New("input/output error when cutting")
	}
	return f.File.Truncate(size)
}

func (f faultyFile) Close() error {
	err := f.File.Close()
	if f.fails() {
		err = errors.New("input/output error when closing")
	}
	return err
}

// TestSpoolFailingDisk has a disk on which anything fails now and then. What add has kept is delivered, and once, unless
// there was a restart; what it has not is not, unless there was one.
func TestSpoolFailingDisk(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 1))
	dir := t.TempDir()
	var rate float64
	fails := func() bool { return rng.Float64() < rate }
	open := func() *spool {
		s := newSpool(t, dir, 1<<20)
		create := s.create
		s.create = func(name string) (spoolFile, error) {
			if fails() {
				return nil, errors.New("no more files")
			}
			f, err := create(name)
			if err != nil {
				return nil, err
			}
			return faultyFile{f.(*os.File), fails}, nil
		}
		return s
	}
	s := open()
	kept, failed := map[uint64]bool{}, map[uint64]bool{} // of what is in the spool
	delivered := map[uint64]int{}
	restarted := false
	n := 0
	for range 3000 {
		rate = []float64{0, .1, .5, 1}[rng.IntN(4)]
		switch what := rng.IntN(20); {
		case what < 14:
			n++
			if err := s.add(numbered(n)); err == nil {
				kept[uint64(n)] = true
			} else {
				require.NotErrorIs(t, err, errSpoolFull)
				failed[uint64(n)] = true
			}
		case what < 19:
			left := rng.IntN(30)
			err := s.replay(func(g clickGroup) error {
				if left--; left < 0 {
					return errDown
				}
				delivered[g.Number]++
				return nil
			})
			if err != nil {
				require.ErrorIs(t, err, errDown)
				continue
			}
			for number := range kept {
				require.Positive(t, delivered[number], "seed %d: lost", seed)
			}
			for number, times := range delivered {
				if !restarted {
					require.True(t, kept[number], "seed %d: %d was said not to be kept", seed, number)
					require.Equal(t, 1, times, "seed %d", seed)
				} else {
					require.True(t, kept[number] || failed[number])
				}
			}
			kept, failed, delivered, restarted = map[uint64]bool{}, map[uint64]bool{}, map[uint64]int{}, false
			require.Zero(t, s.bytes())
			require.Empty(t, files(t, dir, "*.spool"))
		default:
			rate = 0
			require.NoError(t, s.close())
			s, restarted = open(), true
		}
	}
	rate = 0
	require.Empty(t, files(t, dir, "*"+damaged)) // nothing is mistaken for damage
}

// A hookedFile is a file that calls a function in place of Sync.
type hookedFile struct {
	spoolFile
	sync func() error
}

func (f hookedFile) Sync() error { return f.sync() }

// TestSpoolStays has files that cannot be removed, as if the disk could only be read by now: those behind them are
// delivered all the same, and nothing twice.
func TestSpoolStays(t *testing.T) {
	dir := t.TempDir()
	s := newSpool(t, dir, 1<<30)
	for n := range 2 {
		require.NoError(t, s.add(clickGroup{"run", uint64(n), []click{{Referrer: strings.Repeat("x", segmentBytes*2/3)}}}))
		require.NoError(t, s.add(clickGroup{"run", uint64(n + 10), []click{{Referrer: strings.Repeat("x", segmentBytes*2/3)}}}))
	}
	first := files(t, dir, "*")[0]
	var got []uint64
	require.NoError(t, s.replay(func(g clickGroup) error {
		if got = append(got, g.Number); len(got) == 1 { // a directory that is not empty is in its place
			require.NoError(t, os.Remove(first))
			require.NoError(t, os.MkdirAll(filepath.Join(first, "below"), 0o700))
		}
		return nil
	}))
	require.Equal(t, []uint64{0, 10, 1, 11}, got)
	require.Zero(t, s.bytes())
	require.Equal(t, []string{first}, files(t, dir, "*"))
}

// TestSpoolNumberTaken has a file that was made, and then neither outlasts a power failure nor can be removed: the next
// one has another number.
func TestSpoolNumberTaken(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "here")
	require.NoError(t, os.Mkdir(dir, 0o700))
	s := newSpool(t, dir, 1<<20)
	create := s.create
	s.create = func(name string) (spoolFile, error) {
		f, err := create(name)
		require.NoError(t, os.Rename(dir, dir+"-not"))
		return f, err
	}
	require.ErrorIs(t, s.add(numbered(1)), os.ErrNotExist)
	require.NoError(t, os.Rename(dir+"-not", dir))
	s.create = create
	require.NoError(t, s.add(numbered(0)))
	require.Equal(t, to(1), numbers(t, s))
}

// TestSpoolTooLong has a file of a length that nobody has, as a file system may leave one: it is kept aside.
func TestSpoolTooLong(t *testing.T) {
	dir := t.TempDir()
	long := filepath.Join(dir, fmt.Sprintf(segmentFormat, 1))
	f, err := os.Create(long)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(1<<40))
	require.NoError(t, f.Close())
	require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf(segmentFormat, 2)), make([]byte, maxSegment), 0o600))
	s := newSpool(t, dir, 1<<62)
	require.NoError(t, s.add(numbered(0)))
	require.Equal(t, to(1), numbers(t, s))
	require.FileExists(t, long+damaged)
	require.Len(t, files(t, dir, "*"), 1)
}

// TestSpoolAddAtTheEnd adds groups just when the last one of a file was delivered: none comes between the last look at
// the file and its end. So that this happens, the lock is kept until others wait for it, and then goes round.
func TestSpoolAddAtTheEnd(t *testing.T) {
	s := newSpool(t, t.TempDir(), 1<<30)
	seen := map[uint64]bool{}
	const each = 3
	for round := range 20 {
		first := round * (each + 1)
		require.NoError(t, s.add(numbered(first)))
		var adding sync.WaitGroup
		require.NoError(t, s.replay(func(g clickGroup) error {
			if seen[g.Number] = true; int(g.Number) != first {
				return nil
			}
			s.mu.Lock()
			adding.Add(1)
			time.AfterFunc(2*time.Millisecond, func() {
				defer adding.Done()
				for n := range each {
					adding.Go(func() {
						if err := s.add(numbered(first + 1 + n)); err != nil {
							t.Error(err)
						}
					})
				}
				time.AfterFunc(2*time.Millisecond, func() {
					s.mu.Unlock()
					s.mu.Lock() // who is woken in vain is handed the lock next, and those behind him after that
					time.AfterFunc(2*time.Millisecond, s.mu.Unlock)
				})
			})
			return nil
		}))
		adding.Wait()
		require.NoError(t, s.replay(func(g clickGroup) error { seen[g.Number] = true; return nil }))
		require.Len(t, seen, first+1+each)
	}
}

// TestSpoolTakesBack has a disk that takes what is written, and then fails: none of it stays, and no file for it alone.
func TestSpoolTakesBack(t *testing.T) {
	dir := t.TempDir()
	s := newSpool(t, dir, 1<<30)
	var failing error
	create := s.create
	s.create = func(name string) (spoolFile, error) {
		f, err := create(name)
		return hookedFile{f, func() error { return failing }}, err
	}
	for range 3 {
		failing = errDown
		for range 10 {
			require.ErrorIs(t, s.add(numbered(99)), errDown)
		}
		failing = nil
		require.NoError(t, s.add(numbered(0)))
	}
	length := int64(0)
	require.Len(t, files(t, dir, "*"), 3)
	for _, file := range files(t, dir, "*") {
		info, err := os.Stat(file)
		require.NoError(t, err)
		length += info.Size()
	}
	require.Equal(t, s.bytes(), length)
	require.Equal(t, []int{0, 0, 0}, numbers(t, s))
	require.ErrorIs(t, s.add(clickGroup{"run", 1, []click{{Referrer: strings.Repeat("x", maxRecord)}}}), errSpoolFull) // nobody would read it
}

// TestSpoolDamagedAlone has a file that is damaged before one that is not: that one is not kept aside.
func TestSpoolDamagedAlone(t *testing.T) {
	dir := t.TempDir()
	for n := range 2 {
		s := newSpool(t, dir, 1<<20)
		for range 2 {
			require.NoError(t, s.add(numbered(n)))
		}
		require.NoError(t, s.close())
	}
	first := files(t, dir, "*")[0]
	body, err := os.ReadFile(first)
	require.NoError(t, err)
	body[recordHead]++
	require.NoError(t, os.WriteFile(first, body, 0o600))
	require.Equal(t, []int{0, 1, 1}, numbers(t, newSpool(t, dir, 1<<20)))
	require.Equal(t, []string{first + damaged}, files(t, dir, "*"))
}
