package shard

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Consistency says which databases of a shard a read can go to. Beside the constants there is
// BoundedStaleness. All but Primary need replicas, and all but Eventual a Probe; where these are not, a
// read goes to the primary.
type Consistency int64

const (
	// Primary reads from the primary, which has every write.
	Primary Consistency = 0
	// Eventual reads from any replica, however far behind it is, or from the primary if none can be
	// reached.
	Eventual Consistency = -1
	// ReadYourWrites reads from a replica that has every write of the session, if there is one, or will
	// be within SQLConfig.MaxWait. A read that is in no session goes to the primary, and so does the
	// first one after a write whose position the primary could not tell, and the first one of a part
	// that may have come to its shard since the session has written, as its Epoch is newer than what
	// the session knows. (Scatter goes by the epoch of the topology, if the Router is a Map or has
	// another method Topology, and otherwise does not know of moves.) It does not promise that what has
	// been read is there at the next read, if others have written it.
	ReadYourWrites Consistency = -2
)

// BoundedStaleness reads from a replica that has every write that has been acknowledged more than d
// before the read. It does not depend on the clocks of the servers. If d is not positive, it is
// Primary.
//
// It is of use from some tens of milliseconds on, as less has passed until it is known how far a
// replica is.
//
// What a part brings with it when it moves counts as written at its new shard when it is copied there:
// who moves it must wait until the replicas of that shard have it, before it is Serving.
func BoundedStaleness(d time.Duration) Consistency { return Consistency(max(d, 0)) }

// String returns the name of the consistency, such as "Primary" or "BoundedStaleness(5s)".
func (c Consistency) String() string {
	switch {
	case c == Primary:
		return "Primary"
	case c == Eventual:
		return "Eventual"
	case c == ReadYourWrites:
		return "ReadYourWrites"
	case c > 0:
		return fmt.Sprintf("BoundedStaleness(%v)", time.Duration(c))
	}
	return fmt.Sprintf("Consistency(%d)", int64(c))
}

func (c Consistency) valid() bool { return c >= ReadYourWrites }

// The keys of what is in a context.
type (
	consistencyKey struct{}
	sessionKey     struct{}
)

// WithConsistency returns a context with which reads go by c, whatever the SQLConfig says. One that is
// none of the constants, and no BoundedStaleness, is Primary.
func WithConsistency(ctx context.Context, c Consistency) context.Context {
	if !c.valid() {
		c = Primary
	}
	return context.WithValue(ctx, consistencyKey{}, c)
}

// WithSession returns a context with a session: what is written with it, or with a context that comes
// from it, is seen by reads with ReadYourWrites that begin after the write has returned. If ctx has a
// session already, that stays.
//
// A session is safe for concurrent use by multiple goroutines. It ends with the request that it is for;
// to go on in the next, take its SessionToken.
func WithSession(ctx context.Context) context.Context {
	if sessionOf(ctx) != nil {
		return ctx
	}
	return context.WithValue(ctx, sessionKey{}, &session{wrote: make(map[place]written), epoch: math.MaxUint64})
}

func sessionOf(ctx context.Context) *session {
	s, _ := ctx.Value(sessionKey{}).(*session)
	return s
}

// sessionsOf returns the session of ctx, if it has one.
func sessionsOf(ctx context.Context) []*session {
	if s := sessionOf(ctx); s != nil {
		return []*session{s}
	}
	return nil
}

// A session is what has been written in it.
//
// A part can move after it was written, and then nothing is known of its new shard, whose replicas may
// not have it yet. A part that has moved has a higher epoch than when it was written, and so than the
// lowest one that was written; and what it has brought with it is in the primary of its new shard from
// the moment on at which a router says that it is there. So a position that was asked for behind a
// placement covers it. (The highest epoch that was written would not do: between two writes, what was
// written first can move.)
type session struct {
	mu       sync.Mutex
	wrote    map[place]written
	all      bool   // there may be writes in any shard, behind nobody knows which positions
	allMarks uint64 // how often all was set: it marks all places
	epoch    uint64 // the lowest of the placements that were written; MaxUint64 if none was
	clock    uint64 // grows with each change
}

// Epochs are those of the placements that a statement is about: the lowest and the highest.
type epochs struct{ low, high uint64 }

// A place is a shard of a DB.
type place struct {
	name  string // SQLConfig.Name
	shard ID
}

// A written says how far a database must be to have all writes of a session.
//
// Invariant: all writes of the session that were acknowledged, but for those before which marks has
// grown, are at pos or before it; and if unknown is set, it is not known where some are, until the
// primary tells how far it is.
type written struct {
	pos     Position
	unknown bool
	epoch   uint64 // what has moved here until then is at pos or before it, too
	marks   uint64 // how often unknown was set
	changed uint64 // the session's clock at the last change
}

// mark notes that there is a write of which nobody knows the position, or whether it was one.
func (s *session) mark(p place, low uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch = min(s.epoch, low)
	w := s.wrote[p]
	w.unknown = true
	w.marks++
	s.setLocked(p, w)
}

// setLocked sets what is written at p.
func (s *session) setLocked(p place, w written) {
	s.clock++
	w.changed = s.clock
	s.wrote[p] = w
}

// marks returns how often the place was marked, for note.
func (s *session) marks(p place) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wrote[p].marks + s.allMarks
}

// note notes a position that a primary has told of since marks was asked for, and since a router has
// returned placements with the epochs. It has all that was written before that, so it ends marks that
// are older; but not those of a write that may have been later.
func (s *session) note(p place, pos Position, e epochs, marks uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch = min(s.epoch, e.low)
	w, ok := s.wrote[p]
	same := w.marks+s.allMarks == marks
	switch {
	case w.unknown && same:
		w.pos, w.unknown = pos, false
	case !ok:
		w.pos, w.unknown = pos, s.all && !same
	case !w.merge(pos) && w.epoch >= e.high:
		return
	}
	w.epoch = max(w.epoch, e.high)
	s.setLocked(p, w)
}

// merge sets w to have pos as well, and reports whether it has changed.
func (w *written) merge(pos Position) bool {
	switch {
	case w.unknown:
		return false
	case w.pos.Source != pos.Source:
		// The database was replaced by another, and which of the two is the later nobody knows.
		w.unknown = true
		w.marks++
		return true
	case w.pos.compare(pos) < 0:
		w.pos = pos
		return true
	}
	return false
}

// need returns the position that a replica must have for a read of a placement with an epoch; all if
// any will do, and unknown if none will.
func (s *session) need(p place, epoch uint64) (pos Position, all, unknown bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w, ok := s.wrote[p]
	switch {
	case w.unknown, !ok && s.all, epoch > max(s.epoch, w.epoch):
		return Position{}, false, true
	case !ok:
		return Position{}, true, false
	}
	return w.pos, false, false
}

// What a token may have. It fits into a cookie, of which browsers keep 4,096 bytes with its name.
const (
	maxToken   = 3072 // bytes
	maxName    = 64
	maxTokenID = 255
	// tokenVersion is the first byte of a token.
	tokenVersion = 1
	// The bits of the second, and of the first of each entry.
	tokenAll     = 1
	tokenUnknown = 1
)

// SessionToken returns what the session of ctx has written so far as a text that WithSessionToken
// takes, in this process or another with the same shards, so that a client can carry it from one
// request to the next: letters, digits, "-" and "_", at most 3,072 of them. "" if nothing was written,
// or ctx has no session.
//
// It is about 30 bytes for each shard that was written, and the names of the shard and of the DB. If
// there are more than fit, it has the shards that were written last, and reads from others go to their
// primaries.
//
// It is not secret, and not signed: who changes it can only harm the consistency of the own reads, or
// send them to the primary. It says the names of shards, and how much the databases write.
func SessionToken(ctx context.Context) string {
	s := sessionOf(ctx)
	if s == nil {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.wrote) == 0 && !s.all {
		return ""
	}
	places := make([]place, 0, len(s.wrote))
	for p := range s.wrote {
		places = append(places, p)
	}
	slices.SortFunc(places, func(p, q place) int { return cmp.Compare(s.wrote[q].changed, s.wrote[p].changed) })
	token := binary.AppendUvarint([]byte{tokenVersion, 0}, s.epoch)
	all := s.all
	for _, p := range places {
		before := len(token)
		token = appendWritten(token, p, s.wrote[p])
		if len(p.shard) > maxTokenID || base64.RawURLEncoding.EncodedLen(len(token)) > maxToken {
			token, all = token[:before], true
			break
		}
	}
	if all {
		token[1] = tokenAll
	}
	return base64.RawURLEncoding.EncodeToString(token)
}

// appendWritten appends what was written at a place.
func appendWritten(b []byte, p place, w written) []byte {
	flags := byte(0)
	if w.unknown {
		flags = tokenUnknown
	}
	b = append(b, flags)
	b = binary.AppendUvarint(b, uint64(len(p.name)))
	b = append(b, p.name...)
	b = binary.AppendUvarint(b, uint64(len(p.shard)))
	b = append(b, p.shard...)
	if !w.unknown {
		b = binary.BigEndian.AppendUint64(b, w.pos.Source)
		b = binary.AppendUvarint(b, w.pos.Timeline)
		b = binary.AppendUvarint(b, w.pos.Offset)
	}
	return binary.AppendUvarint(b, w.epoch)
}

// errToken is returned of what is no token.
var errToken = errors.New("shard: not a session token")

// WithSessionToken returns a context whose session has what the token says, as well as what that of ctx
// has, if it has one. "" is nothing. If the token is none, it returns ctx, and an error: then it is not
// known what the client has written, and it should be read with Primary.
func WithSessionToken(ctx context.Context, token string) (context.Context, error) {
	wrote, all, epoch, err := parseToken(token)
	if err != nil {
		return ctx, err
	}
	ctx = WithSession(ctx)
	s := sessionOf(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch = min(s.epoch, epoch)
	before := s.all
	if all {
		// There may be writes where the token says nothing. (If somebody is being told a position at
		// this moment, it can be that of an earlier one: then the places of the token are marked as
		// well, which does no harm.)
		s.all = true
		s.allMarks++
		for p, w := range s.wrote {
			if !w.unknown && !slices.ContainsFunc(wrote, func(e tokenEntry) bool { return e.place == p }) {
				w.unknown = true
				s.setLocked(p, w)
			}
		}
	}
	for _, e := range slices.Backward(wrote) { // so that the last written is the last again
		w, ok := s.wrote[e.place]
		switch {
		case e.unknown, !ok && before: // the session may have been further there
			w.unknown = true
			w.marks++
		case !ok:
			w.pos = e.pos
		case !w.merge(e.pos) && w.epoch >= e.epoch:
			continue
		}
		w.epoch = max(w.epoch, e.epoch)
		s.setLocked(e.place, w)
	}
	return ctx, nil
}

// A tokenEntry is what a token says of one place.
type tokenEntry struct {
	place
	written
}

// parseToken returns the entries of a token. It takes only what SessionToken returns, so that of two
// texts that mean the same one is refused.
func parseToken(token string) (wrote []tokenEntry, all bool, epoch uint64, err error) {
	if token == "" {
		return nil, false, math.MaxUint64, nil
	}
	if len(token) > maxToken {
		return nil, false, 0, fmt.Errorf("%w: it has %d bytes, of at most %d", errToken, len(token), maxToken)
	}
	if strings.ContainsAny(token, "\r\n") { // which the decoder skips
		return nil, false, 0, errToken
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil {
		return nil, false, 0, fmt.Errorf("%w: %w", errToken, err)
	}
	if len(b) < 2 || b[0] != tokenVersion || b[1]&^tokenAll != 0 {
		return nil, false, 0, errToken
	}
	all = b[1] == tokenAll
	epoch, b, ok := cutUvarint(b[2:], true)
	if !ok || len(b) == 0 && !all {
		return nil, false, 0, errToken
	}
	seen := map[place]bool{}
	for len(b) > 0 {
		var e tokenEntry
		ok := b[0]&^tokenUnknown == 0
		e.unknown = b[0] == tokenUnknown
		b = b[1:]
		e.name, b, ok = cutText(b, maxName, ok)
		var id string
		id, b, ok = cutText(b, maxTokenID, ok)
		e.shard = ID(id)
		if ok && !e.unknown {
			if ok = len(b) >= 8; ok {
				e.pos.Source, b = binary.BigEndian.Uint64(b), b[8:]
			}
			e.pos.Timeline, b, ok = cutUvarint(b, ok)
			e.pos.Offset, b, ok = cutUvarint(b, ok)
		}
		e.epoch, b, ok = cutUvarint(b, ok)
		if !ok || seen[e.place] {
			return nil, false, 0, errToken
		}
		seen[e.place] = true
		wrote = append(wrote, e)
	}
	return wrote, all, epoch, nil
}

// cutUvarint returns the number that b begins with, and the rest. It takes the shortest form only.
func cutUvarint(b []byte, ok bool) (uint64, []byte, bool) {
	if !ok {
		return 0, nil, false
	}
	v, n := binary.Uvarint(b)
	if n <= 0 || n > 1 && b[n-1] == 0 {
		return 0, nil, false
	}
	return v, b[n:], true
}

// cutText returns the text of at most limit bytes that b begins with, and the rest.
func cutText(b []byte, limit uint64, ok bool) (string, []byte, bool) {
	n, b, ok := cutUvarint(b, ok)
	if !ok || n > limit || n > uint64(len(b)) {
		return "", nil, false
	}
	return string(b[:n]), b[n:], true
}
