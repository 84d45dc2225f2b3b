package shard

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A MarkStore keeps a number that no ID of a generator reaches: its high-water mark. After a restart the
// generator begins there, even if its clock was set back. Each number of a shard needs a mark of its
// own.
//
// This is how timestamps are kept in order over restarts in D. Peng and F. Dabek, "Large-scale Incremental
// Processing Using Distributed Transactions and Notifications", OSDI 2010, section 2.3: a range is
// reserved by writing its end to stable storage, and then used from memory.
//
// The generator calls one method at a time, with the context of a caller, and without holding a lock. That
// caller waits until it returns, so it should when the context ends; others get IDs meanwhile, up to
// the mark. A method that asks the same generator for an ID can wait for itself.
type MarkStore interface {
	// LoadMark returns the mark that was saved last, or 0 if none ever was. What cannot be read must be
	// an error, not 0. It is called before the first ID, once if it succeeds. One more than the
	// greatest ID in use is a valid mark, to begin with.
	LoadMark(ctx context.Context) (int64, error)
	// SaveMark saves the mark. When it returns nil, the mark must outlast a crash of the machine. It must
	// never lower what is saved, even if it comes late because its context has ended: UPDATE marks
	// SET mark = $1 WHERE shard = $2 AND mark < $1. After an error it is called again, with the same
	// mark or a higher one.
	SaveMark(ctx context.Context, mark int64) error
}

// A marker is what an IDGen needs for its mark.
type marker struct {
	saving *saving // guarded by mu; nil: nobody calls the store
	again  int64   // guarded by mu; no early save before that time after base, because one has failed
	begin  int64   // guarded by mu; the lowest state that is not below the mark that was loaded, or 0

	// What follows belongs to the one who calls the store.
	loaded bool
	tried  int64 // the state of the highest mark that SaveMark was called with
}

// A saving is a call of the store. Others wait for done.
type saving struct {
	done chan struct{}
	err  error // nil if it was successful, or if those who have waited should try themselves
}

// save raises ceil to be more than first, or comes nearer to it, or waits until somebody else has tried. It
// returns an error if that failed.
//
// The store is called by callers, one at a time, and each waits until his call has returned: if two
// ran at once, the older could be the last to write. Who waits for another does so as long as his own
// context lets him, and does not get the error of the other's context.
func (g *IDGen) save(ctx context.Context, first, elapsed int64) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("shard: saving the mark: %w", err)
	}
	g.mu.Lock()
	s := g.saving
	if s != nil {
		g.mu.Unlock()
		select {
		case <-s.done:
			return s.err
		case <-ctx.Done():
			return fmt.Errorf("shard: waiting for the mark to be saved: %w", ctx.Err())
		}
	}
	if g.ceil.Load() > first { // somebody has just done it
		g.mu.Unlock()
		return nil
	}
	s = g.beginLocked()
	g.mu.Unlock()
	return g.call(ctx, s, first, elapsed)
}

// saveEarly saves the mark if half of what was reserved has passed. If that fails, others try again
// later; the IDs below the mark can be issued until then. The caller has his ID, but must wait until the
// store returns.
func (g *IDGen) saveEarly(ctx context.Context, elapsed int64) {
	ceil := g.ceil.Load()
	if ceil >= g.end || ceil>>g.seqBits > g.unitsOf(elapsed)+g.ahead/2 || ctx.Err() != nil {
		return
	}
	now := int64(time.Since(g.base))
	g.mu.Lock()
	if g.saving != nil || now < g.again || g.ceil.Load() != ceil {
		g.mu.Unlock()
		return
	}
	s := g.beginLocked()
	g.again = now + g.ahead*int64(g.unit)/8 // if it panics, too
	g.mu.Unlock()
	if g.call(ctx, s, g.state.Load()+1, elapsed) == nil {
		g.mu.Lock()
		g.again = 0
		g.mu.Unlock()
	}
}

func (g *IDGen) beginLocked() *saving {
	g.saving = &saving{done: make(chan struct{})}
	return g.saving
}

// call calls the store, and then ends s.
func (g *IDGen) call(ctx context.Context, s *saving, first, elapsed int64) error {
	defer func() { // also if the store panics
		g.mu.Lock()
		g.saving = nil
		g.mu.Unlock()
		close(s.done)
	}()
	var err error
	if g.loaded {
		err = g.reserve(ctx, first, elapsed)
	} else {
		err = g.load(ctx)
	}
	if ctx.Err() == nil {
		s.err = err
	}
	return err
}

// load loads the mark, and makes it the place where IDs begin. They cannot yet be issued.
func (g *IDGen) load(ctx context.Context) error {
	mark, err := g.config.Mark.LoadMark(ctx)
	if err != nil {
		return fmt.Errorf("shard: loading the mark: %w", err)
	}
	if most := g.most(); mark < 0 || mark > most {
		return fmt.Errorf("shard: loading the mark: it must be 0 to %d, got %d", most, mark)
	}
	begin := g.stateOf(mark)
	start := begin >> g.seqBits * int64(g.unit)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.loaded, g.tried, g.begin = true, begin, begin
	// IDs can begin at once. But if that is further ahead of the clock than a reservation, MaxLead has
	// been used before, and is not given again: a process that crashes again and again would
	// otherwise run away from the clock.
	beyond := max(start-g.pace-g.ahead*int64(g.unit), 0)
	g.pace = max(g.pace, start-min(beyond, (g.leadUnits-1)*int64(g.unit)))
	g.state.Store(begin - 1) // nobody has taken anything while ceil was 0
	return nil
}

// reserve saves a mark that is ahead of the clock, and above first.
func (g *IDGen) reserve(ctx context.Context, first, elapsed int64) error {
	// It is measured from the clock, not from first: with each restart IDs begin at the mark, and the
	// marks of a process that crashes again and again would run away from the clock. If first is
	// there already, because of such restarts or because the clock was set back, one ID is added,
	// and then as many as have been issued: what a crash wastes is no more than was used, and
	// there are few saves nevertheless.
	mark := min(g.unitsOf(elapsed)+g.ahead, g.units) << g.seqBits
	mark = max(mark, first+max(1, min(first-g.begin, g.ahead<<g.seqBits)), g.tried)
	mark = min(mark, g.end)
	g.tried = mark
	if err := g.config.Mark.SaveMark(ctx, g.id(mark)); err != nil {
		return fmt.Errorf("shard: saving the mark: %w", err)
	}
	g.ceil.Store(mark)
	return nil
}

// stateOf returns the lowest state whose ID is not below the mark.
func (g *IDGen) stateOf(mark int64) int64 {
	low := g.shardBits + g.seqBits
	state := mark >> low << g.seqBits
	seq := mark & (1<<g.seqBits - 1)
	switch number := mark&(1<<low-1) - seq; {
	case number == g.shard:
		state += seq
	case number > g.shard: // after all IDs of the shard and that time
		state += 1 << g.seqBits
	}
	return state
}

// most returns the highest mark: one more than the highest ID of the layout, if an int64 holds that.
func (g *IDGen) most() int64 {
	return int64(min(uint64(g.units)<<(g.shardBits+g.seqBits), math.MaxInt64))
}

// FileMark returns a MarkStore that keeps a mark in the file of the given path, as a decimal number and the
// end of a line. The directory must exist; the file need not. What is there must be a regular file, or a
// link to one, which is followed. It is safe for concurrent use by multiple goroutines.
//
// The mark is written to a file beside, whose name ends with ".tmp", which then takes its place, so that
// there is always a whole one. A process that is killed at that moment leaves it there. If somebody else
// has written to the mark since, which means that two generators have the same number, SaveMark returns
// an error. So that no two read the mark at once before they write it, SaveMark locks the directory by
// flock, and waits for others as long as the context lets it. That is noticed between processes of one
// machine; where there is no flock, as on Windows, two that save at the same moment are noticed only when
// one of them saves again, MarkAhead/2 later, and have issued the same IDs until then.
//
// A container whose file system does not outlast it needs a volume, which has the directory and not only
// the file, or a MarkStore that is in a database.
func FileMark(path string) MarkStore { return &fileMark{path: path} }

type fileMark struct {
	path string

	mu    sync.Mutex // held while the file is read and written; each generator needs its own
	known bool
	last  int64 // what is in the file, if nobody else writes to it
}

func (f *fileMark) LoadMark(context.Context) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	path, err := f.resolve()
	if err != nil {
		return 0, err
	}
	mark, err := readMark(path)
	if err != nil {
		return 0, err
	}
	f.known, f.last = true, mark
	return mark, nil
}

// resolve returns the path of the file itself. If it was a link that is replaced, the mark would not be
// where the link says, which may be the only place that outlasts the process.
func (f *fileMark) resolve() (string, error) {
	path := f.path
	info, err := os.Lstat(path)
	if err == nil && info.Mode()&fs.ModeSymlink != 0 {
		// That there is nothing at its end is an error: the volume may not be there yet.
		if path, err = filepath.EvalSymlinks(path); err == nil {
			info, err = os.Lstat(path)
		}
		if err != nil {
			return "", fmt.Errorf("%s is a link that leads nowhere: %w", f.path, err)
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return path, nil
	case err != nil:
		return "", err
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("%s must be a regular file, got %v", f.path, info.Mode())
	}
	return path, nil
}

// readMark returns what is in a file, or 0 if there is none.
func readMark(path string) (int64, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	// Without the end of the line, digits may be missing, and it would be too low.
	line, whole := strings.CutSuffix(string(text), "\n")
	mark, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
	if err != nil || mark < 0 || !whole {
		return 0, fmt.Errorf("%s must have a number of at least 0 and the end of a line, got %.40q", path, text)
	}
	return mark, nil
}

func (f *fileMark) SaveMark(ctx context.Context, mark int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	path, err := f.resolve()
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close() // and unlock it
	if err := lockDir(ctx, dir); err != nil {
		return err
	}
	old, err := readMark(path)
	if err != nil {
		return err
	}
	if f.known && old != f.last && old != 0 { // 0: it was deleted
		return fmt.Errorf("%s has %d, not %d: another generator with the same number of a shard writes to it", f.path, old, f.last)
	}
	if mark < old {
		return fmt.Errorf("%s has %d, and must not be set back to %d", f.path, old, mark)
	}
	f.known, f.last = true, old
	if err := replaceMark(path, mark); err != nil {
		return err
	}
	f.last = mark // it is there, though it may not outlast a crash if what follows fails
	return syncDir(dir)
}

// replaceMark replaces a file. If that fails, it leaves it as it was.
func replaceMark(path string, mark int64) error {
	// Not os.CreateTemp, after which nobody else could read the mark.
	name := path + "." + strconv.FormatUint(rand.Uint64(), 36) + ".tmp"
	tmp, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(tmp, "%d\n", mark)
	if err == nil {
		err = tmp.Sync()
	}
	if e := tmp.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(name, path)
	}
	if err != nil {
		_ = os.Remove(name)
	}
	return err
}

// syncDir makes sure that what was renamed in a directory stays so. Windows has no such thing.
func syncDir(dir *os.File) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	return dir.Sync()
}
