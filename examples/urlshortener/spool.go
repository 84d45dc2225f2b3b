package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sync"
)

// A spool keeps groups of clicks in a file while the broker is away. A group is on the disk when add returns. Groups
// that are taken out are put into another file first, so that more can be added meanwhile; if the process ends before
// all of them are delivered, all are delivered again, which does no harm, as a group is counted once.
//
// A record is its length and its CRC-32C, four bytes each with the lowest first, and the group in JSON. The last one of
// a file may be cut off, if the process was killed while it was written: nobody was told that it is kept.
type spool struct {
	dir string
	max int64 // bytes of both files together

	mu   sync.Mutex
	file *os.File // what is added to
	size int64    // of it
	old  int64    // of the other
}

var (
	errSpoolFull = errors.New("the spool is full")
	castagnoli   = crc32.MakeTable(crc32.Castagnoli)
)

const maxRecord = 4 << 20

func openSpool(dir string, max int64) (*spool, error) {
	s := &spool{dir: dir, max: max}
	f, err := os.OpenFile(s.path("clicks.spool"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	s.file = f
	// What was cut off must not stand before what comes now.
	if s.size, err = readSpool(f, func(clickGroup) error { return nil }); err == nil {
		err = f.Truncate(s.size)
	}
	if err == nil {
		_, err = f.Seek(s.size, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if info, err := os.Stat(s.path("clicks.replay")); err == nil {
		s.old = info.Size()
	}
	return s, nil
}

func (s *spool) path(name string) string { return filepath.Join(s.dir, name) }

// add keeps a group, or returns an error and has not kept it: errSpoolFull if there is no room.
func (s *spool) add(g clickGroup) error {
	body, err := json.Marshal(g)
	if err != nil {
		return err
	}
	record := binary.LittleEndian.AppendUint32(nil, uint32(len(body)))
	record = binary.LittleEndian.AppendUint32(record, crc32.Checksum(body, castagnoli))
	record = append(record, body...)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(body) > maxRecord || s.size+s.old+int64(len(record)) > s.max {
		return errSpoolFull
	}
	if _, err = s.file.Write(record); err == nil {
		err = s.file.Sync()
	}
	if err != nil { // take back what may have been written of it
		if undo := errors.Join(s.file.Truncate(s.size), seekTo(s.file, s.size)); undo != nil {
			err = errors.Join(err, undo)
		}
		return err
	}
	s.size += int64(len(record))
	return nil
}

func seekTo(f *os.File, at int64) error {
	_, err := f.Seek(at, io.SeekStart)
	return err
}

// bytes returns how much is kept.
func (s *spool) bytes() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.size + s.old
}

// replay gives all groups that are kept to deliver, the oldest first, until that returns an error; then all of them
// stay. It is not to be called by two at the same time.
func (s *spool) replay(deliver func(clickGroup) error) error {
	for {
		f, err := os.Open(s.path("clicks.replay"))
		switch {
		case errors.Is(err, os.ErrNotExist):
			if more, err := s.rotate(); err != nil || !more {
				return err
			}
			continue
		case err != nil:
			return err
		}
		_, err = readSpool(f, deliver)
		_ = f.Close()
		if err != nil {
			return err
		}
		if err := os.Remove(s.path("clicks.replay")); err != nil {
			return err
		}
		s.mu.Lock()
		s.old = 0
		s.mu.Unlock()
	}
}

// rotate makes what was added so far what is delivered next. It reports whether there is anything.
func (s *spool) rotate() (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.size == 0 {
		return false, nil
	}
	if err := os.Rename(s.path("clicks.spool"), s.path("clicks.replay")); err != nil {
		return false, err
	}
	fresh, err := os.OpenFile(s.path("clicks.spool"), os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil { // go on with the old file, under its old name
		return false, errors.Join(err, os.Rename(s.path("clicks.replay"), s.path("clicks.spool")))
	}
	_ = s.file.Close() // all of it was synced
	s.file, s.old, s.size = fresh, s.size, 0
	return true, nil
}

func (s *spool) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.file.Close()
}

// readSpool gives the groups of a file to deliver, and returns how many bytes of it are whole records.
func readSpool(f io.Reader, deliver func(clickGroup) error) (int64, error) {
	in := bufio.NewReader(f)
	var whole int64
	for {
		var head [8]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return whole, endOfSpool(err)
		}
		length := binary.LittleEndian.Uint32(head[:])
		if length > maxRecord {
			return whole, nil // the end, and not what was written
		}
		body := make([]byte, length)
		if _, err := io.ReadFull(in, body); err != nil {
			return whole, endOfSpool(err)
		}
		var g clickGroup
		if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(head[4:]) || json.Unmarshal(body, &g) != nil {
			return whole, nil
		}
		if err := deliver(g); err != nil {
			return whole, err
		}
		whole += int64(len(head)) + int64(length)
	}
}

func endOfSpool(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return fmt.Errorf("the spool cannot be read: %w", err)
}
