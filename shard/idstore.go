package shard

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
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
// the mark.
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

	// What follows belongs to the one who calls the store.
	loaded bool
	tried  int64 // the highest mark that SaveMark was called with, in units
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
	if most := g.mark(g.units); mark < 0 || mark > most {
		return fmt.Errorf("shard: loading the mark: it must be 0 to %d, got %d", most, mark)
	}
	low := g.shardBits + g.seqBits
	start := mark >> low
	if start<<low != mark {
		start++
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.loaded, g.tried = true, start
	g.pace = max(g.pace, start*int64(g.unit))
	// The clock had shown at least so much when this mark was saved, unless MarkAhead or MaxLead were
	// less then. It counts as a regression if it shows less than that now.
	g.high = max(g.high, max(start-g.ahead-g.leadUnits, 0)*int64(g.unit))
	g.state.Store(start<<g.seqBits - 1) // nobody has taken anything while ceil was 0
	return nil
}

// reserve saves a mark that is ahead of the clock, and above first.
func (g *IDGen) reserve(ctx context.Context, first, elapsed int64) error {
	// It is measured from the clock, not from first: with each restart IDs begin at the mark, and the
	// marks of a process that crashes again and again would run away from the clock. What is added to
	// first is so little that no restart takes less time.
	units := max(g.unitsOf(elapsed)+g.ahead, first>>g.seqBits+g.leadUnits, g.tried)
	units = min(units, g.units)
	g.tried = units
	if err := g.config.Mark.SaveMark(ctx, g.mark(units)); err != nil {
		return fmt.Errorf("shard: saving the mark: %w", err)
	}
	g.ceil.Store(min(units<<g.seqBits, g.end))
	return nil
}

// mark returns the lowest ID of so many units, or if that is more than an int64 holds, the highest.
func (g *IDGen) mark(units int64) int64 {
	return int64(min(uint64(units)<<(g.shardBits+g.seqBits), math.MaxInt64))
}

// FileMark returns a MarkStore that keeps a mark in the file of the given path, as a decimal number. The
// directory must exist; the file need not. The mark is written to a file beside, with ".tmp" added to the
// path, which then takes its place, so that there is always a whole one. If somebody else has written to
// it since, which means that two processes have the same number, SaveMark returns an error. It does not
// look at contexts. It is safe for concurrent use by multiple goroutines.
//
// A container whose file system does not outlast it needs a volume, or a MarkStore that is in a database.
func FileMark(path string) MarkStore { return &fileMark{path: path} }

type fileMark struct {
	path string

	mu          sync.Mutex // held while the file is read and written; each generator needs its own
	known       bool
	last, tried int64 // what is in the file, if nobody else writes to it
}

func (f *fileMark) LoadMark(context.Context) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	mark, err := f.readLocked()
	if err != nil {
		return 0, err
	}
	f.known, f.last, f.tried = true, mark, mark
	return mark, nil
}

// readLocked returns what is in the file, or 0 if there is none.
func (f *fileMark) readLocked() (int64, error) {
	text, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	mark, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil || mark < 0 {
		return 0, fmt.Errorf("%s must have a number of at least 0, got %.40q", f.path, text)
	}
	return mark, nil
}

func (f *fileMark) SaveMark(_ context.Context, mark int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	old, err := f.readLocked()
	if err != nil {
		return err
	}
	// 0: it was deleted. tried: it was written after all, though there was an error.
	if f.known && old != f.last && old != f.tried && old != 0 {
		return fmt.Errorf("%s has %d, not %d: another generator with the same number of a shard writes to it", f.path, old, f.last)
	}
	if mark < old {
		return fmt.Errorf("%s has %d, and must not be set back to %d", f.path, old, mark)
	}
	f.known, f.last, f.tried = true, old, mark
	if err := f.write(mark); err != nil {
		return err
	}
	f.last = mark
	return nil
}

// write replaces the file.
func (f *fileMark) write(mark int64) (err error) {
	name := f.path + ".tmp"
	tmp, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
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
		err = os.Rename(name, f.path)
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(f.path))
}

// syncDir makes sure that what was renamed in a directory stays so. Windows has no such thing.
func syncDir(path string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	err = d.Sync()
	if e := d.Close(); err == nil {
		err = e
	}
	return err
}
