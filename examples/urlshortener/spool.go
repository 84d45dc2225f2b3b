package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// A spool keeps groups of clicks in files while the broker is away. A group is on the disk when add returns. Files are
// numbered, and a group is added to the last of them, until that has segmentBytes; they are delivered from the first,
// each of which is taken away when all of its groups are. If the process ends before that, those of one file are
// delivered again, which does no harm, as a group is counted once.
//
// A record is a mark, its length and its CRC-32C, four bytes each with the lowest first, and the group in JSON. The last
// one of a file may be cut off, if the process was killed while it was written: nobody was told that it is kept. So a
// file is not added to any more after a restart, nor after an error: a new one is begun. What is damaged in the middle
// of a file is passed over, up to the next record that is whole; the file is then kept under another name.
type spool struct {
	dir    string
	max    int64 // bytes of all files together
	log    *slog.Logger
	create func(name string) (spoolFile, error)

	size atomic.Int64 // of all; it changes with mu, and is read without, so that who asks does not wait for the disk

	mu       sync.Mutex
	segments []*segment // the oldest first
	out      spoolFile  // of the last one; nil: the next group begins another
	next     uint64     // its number

	// Only replay uses these.
	offset  int64 // in the first one: how far it is delivered
	damaged bool  // the first one is
}

// A segment is a file of a spool.
type segment struct {
	path string
	size int64 // what is to be delivered
}

// A spoolFile is what a spool needs of a file to add to it.
type spoolFile interface {
	WriteAt(b []byte, at int64) (int, error)
	Sync() error
	Truncate(size int64) error
	Close() error
}

var (
	errSpoolFull = errors.New("the spool is full")
	castagnoli   = crc32.MakeTable(crc32.Castagnoli)
	spoolMark    = []byte("\xc1ick")
)

const (
	segmentBytes = 4 << 20
	maxRecord    = 4 << 20
	recordHead   = 12
	maxSegment   = segmentBytes + recordHead + maxRecord

	segmentFormat = "clicks-%020d.spool"
	damaged       = ".damaged" // is behind the name of a file that is kept aside
)

// openSpool opens the spool of a directory, with what a process before has left there.
func openSpool(dir string, max int64, log *slog.Logger) (*spool, error) {
	s := &spool{dir: dir, max: max, log: log, next: 1, create: func(name string) (spoolFile, error) {
		return os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	}}
	entries, err := os.ReadDir(dir) // sorted, and so are the numbers: all are of one length
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		var number uint64
		name := strings.TrimSuffix(e.Name(), damaged)
		if _, err := fmt.Sscanf(name, segmentFormat, &number); err != nil || name != fmt.Sprintf(segmentFormat, number) {
			continue // something else
		}
		s.next = number + 1
		if name != e.Name() {
			continue
		}
		path := filepath.Join(dir, name)
		size, err := checkSegment(path)
		if err == nil && size == 0 {
			err = os.Remove(path)
		}
		if err != nil {
			return nil, err
		}
		if size > 0 {
			s.segments = append(s.segments, &segment{path, size})
			s.size.Add(size)
		}
	}
	return s, nil
}

// checkSegment returns how long a file is, or an error if it cannot be read: better now than when the broker is away.
func checkSegment(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() == 0 && info.Mode().IsRegular() {
		return 0, err
	}
	_, err = f.ReadAt(make([]byte, 1), 0)
	return info.Size(), err
}

// add keeps a group, or returns an error and has not kept it: errSpoolFull if there is no room.
func (s *spool) add(g clickGroup) error {
	body, err := json.Marshal(g)
	if err != nil {
		return err
	}
	record := slices.Concat(spoolMark, make([]byte, recordHead-len(spoolMark)), body)
	binary.LittleEndian.PutUint32(record[4:], uint32(len(body)))
	binary.LittleEndian.PutUint32(record[8:], crc32.Checksum(body, castagnoli))
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(body) > maxRecord || s.size.Load()+int64(len(record)) > s.max {
		return errSpoolFull
	}
	if err := s.beginLocked(); err != nil {
		return err
	}
	last := s.segments[len(s.segments)-1]
	if _, err = s.out.WriteAt(record, last.size); err == nil {
		err = s.out.Sync()
	}
	if err != nil {
		return errors.Join(err, s.abandonLocked())
	}
	last.size += int64(len(record))
	s.size.Add(int64(len(record)))
	return nil
}

// beginLocked begins a file, if there is none that is to be added to.
func (s *spool) beginLocked() error {
	if s.out != nil && s.segments[len(s.segments)-1].size < segmentBytes {
		return nil
	}
	if s.out != nil {
		_ = s.out.Close() // all of it was synced
		s.out = nil
	}
	name := filepath.Join(s.dir, fmt.Sprintf(segmentFormat, s.next))
	out, err := s.create(name)
	if err != nil {
		return err
	}
	s.next++                               // also if this file comes to nothing: perhaps it cannot be removed
	if err := syncDir(s.dir); err != nil { // a file that is not in its directory after a power failure is lost
		return errors.Join(err, out.Close(), os.Remove(name))
	}
	s.segments, s.out = append(s.segments, &segment{path: name}), out
	return nil
}

// abandonLocked takes back what may have been written of a record, and has the next one begin another file: after an
// error nobody knows what of this one will be on the disk. What was synced before stays, and is delivered.
func (s *spool) abandonLocked() error {
	last := s.segments[len(s.segments)-1]
	// If it cannot be cut, something may stand behind the last record. It is not delivered in this run; in a later one
	// it is if it is whole, which is no harm either.
	err := errors.Join(s.out.Truncate(last.size), s.out.Close())
	s.out = nil
	if last.size == 0 { // or there would be one for each time that the disk is full
		s.segments = s.segments[:len(s.segments)-1]
		err = errors.Join(err, os.Remove(last.path))
	}
	return err
}

// syncDir has what is in a directory outlast a power failure.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" { // which has no such thing
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// bytes returns how much is kept.
func (s *spool) bytes() int64 { return s.size.Load() }

// replay gives all groups that are kept to deliver, the oldest first, until that returns an error; the next call goes on
// with the group that was not delivered. It is not to be called by two at the same time. It returns nil if there is
// nothing left.
func (s *spool) replay(deliver func(clickGroup) error) error {
	for {
		s.mu.Lock()
		if len(s.segments) == 0 {
			s.mu.Unlock()
			return nil
		}
		first := *s.segments[0]
		s.mu.Unlock()
		if err := s.replaySegment(first, deliver); err != nil {
			return err
		}
	}
}

// replaySegment delivers what is in the first file.
func (s *spool) replaySegment(g segment, deliver func(clickGroup) error) error {
	body, err := readFrom(g.path, s.offset, g.size)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.log.Error("a file of the spool has disappeared", "file", g.path)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.finishLocked(func(string) error { return nil })
		return nil
	case err != nil:
		if _, other := os.ReadDir(s.dir); other != nil { // it is not the file: perhaps too many are open
			return err
		}
		// Those behind it need not wait for it.
		s.log.Error("a file of the spool cannot be read, and is kept aside", "file", g.path, "error", err)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.finishLocked(setAside)
		return nil
	}
	for len(body) > 0 {
		group, length, ok := readRecord(body)
		if ok {
			if err := deliver(group); err != nil {
				return err
			}
		} else if length = nextRecord(body); length == len(body) {
			s.log.Warn("the end of a file of the spool is no group that was kept", "file", g.path, "bytes", length)
		} else {
			s.log.Error("a file of the spool is damaged, and is kept aside; what is behind the damage is delivered",
				"file", g.path, "at", s.offset, "bytes", length)
			s.damaged = true
		}
		s.offset += int64(length)
		body = body[length:]
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.segments[0].size > g.size { // was added meanwhile
		return nil
	}
	away := os.Remove
	if s.damaged {
		away = setAside
	}
	s.finishLocked(away)
	return nil
}

// finishLocked does away with the first file. If that fails, it is not delivered again before a restart: those behind it
// must not wait for it.
func (s *spool) finishLocked(away func(path string) error) {
	first := s.segments[0]
	if len(s.segments) == 1 && s.out != nil {
		_ = s.out.Close() // all of it was synced
		s.out = nil
	}
	if err := away(first.path); err != nil {
		s.log.Error("a file of the spool is done with, and stays, as it cannot be removed; it is delivered again after a restart",
			"file", first.path, "error", err)
	}
	s.segments = s.segments[1:]
	s.size.Add(-first.size)
	s.offset, s.damaged = 0, false
}

// setAside keeps a file under a name by which it is not delivered again.
func setAside(path string) error { return os.Rename(path, path+damaged) }

// readFrom returns what is in a file from one offset to another, or to its end.
func readFrom(path string, from, to int64) ([]byte, error) {
	if to > maxSegment {
		return nil, fmt.Errorf("it has %d bytes, and none was written with more than %d", to, maxSegment)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	body := make([]byte, to-from)
	n, err := f.ReadAt(body, from)
	if err != nil && n < len(body) {
		if info, bad := f.Stat(); bad == nil && info.Size() == from+int64(n) {
			err = nil // it is shorter than it was
		}
		return body[:n], err
	}
	return body, nil
}

// readRecord returns the group that a record at the beginning of some bytes has, and its length.
func readRecord(b []byte) (g clickGroup, length int, ok bool) {
	if len(b) < recordHead || !bytes.HasPrefix(b, spoolMark) {
		return g, 0, false
	}
	size := binary.LittleEndian.Uint32(b[4:])
	if size > maxRecord || len(b) < recordHead+int(size) {
		return g, 0, false
	}
	body := b[recordHead : recordHead+int(size)]
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(b[8:]) || json.Unmarshal(body, &g) != nil {
		return g, 0, false
	}
	return g, recordHead + int(size), true
}

// nextRecord returns where the next whole record begins, behind the first byte: at the end if there is none.
func nextRecord(b []byte) int {
	for at := 1; at < len(b); at++ {
		i := bytes.Index(b[at:], spoolMark)
		if i < 0 {
			break
		}
		at += i
		if _, _, ok := readRecord(b[at:]); ok {
			return at
		}
	}
	return len(b)
}

// close ends adding. What is kept stays.
func (s *spool) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.out == nil {
		return nil
	}
	err := s.out.Close()
	s.out = nil
	return err
}
