package shard

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
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
	// first one after a write whose position the primary could not tell. It does not promise that what
	// has been read is there at the next read, if others have written it.
	ReadYourWrites Consistency = -2
)

// BoundedStaleness reads from a replica that has every write that has been acknowledged more than d
// before the read. It does not depend on the clocks of the servers. If d is not positive, it is
// Primary.
//
// It is of use from some tens of milliseconds on, as less has passed until it is known how far a
// replica is.
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
	return context.WithValue(ctx, sessionKey{}, &session{wrote: make(map[place]written)})
}

func sessionOf(ctx context.Context) *session {
	s, _ := ctx.Value(sessionKey{}).(*session)
	return s
}

// A session is what has been written in it.
type session struct {
	mu    sync.Mutex
	wrote map[place]written
	all   bool   // there may be writes in any shard, behind nobody knows which positions
	clock uint64 // grows with each change
}

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
	marks   uint64 // how often unknown was set
	changed uint64 // the session's clock at the last change
}

// mark notes that there is a write of which nobody knows the position, or whether it was one.
func (s *session) mark(p place) {
	s.mu.Lock()
	defer s.mu.Unlock()
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

// marks returns how often mark was called, for note.
func (s *session) marks(p place) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wrote[p].marks
}

// note notes a position that a primary has told of since marks was asked for. It has all that was
// written before that, so it ends marks that are older; but not those of a write that may have been
// later.
func (s *session) note(p place, pos Position, marks uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w, ok := s.wrote[p]
	switch {
	case w.marks == marks && w.unknown, !ok:
		w.pos, w.unknown = pos, false
	case !w.merge(pos):
		return
	}
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

// need returns the position that a replica must have; all if any will do, and unknown if none will.
func (s *session) need(p place) (pos Position, all, unknown bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w, ok := s.wrote[p]
	switch {
	case w.unknown, !ok && s.all:
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
// It is about 25 bytes for each shard that was written, and the names of the shard and of the DB. If
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
	token := []byte{tokenVersion, 0}
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
	return b
}

// errToken is returned of what is no token.
var errToken = errors.New("shard: not a session token")

// WithSessionToken returns a context whose session has what the token says, as well as what that of ctx
// has, if it has one. "" is nothing. If the token is none, it returns ctx, and an error: then it is not
// known what the client has written, and it should be read with Primary.
func WithSessionToken(ctx context.Context, token string) (context.Context, error) {
	wrote, all, err := parseToken(token)
	if err != nil {
		return ctx, err
	}
	ctx = WithSession(ctx)
	s := sessionOf(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = s.all || all
	for _, e := range slices.Backward(wrote) { // so that the last written is the last again
		w, ok := s.wrote[e.place]
		switch {
		case e.unknown:
			w.unknown = true
			w.marks++
		case !ok:
			w.pos = e.pos
		case !w.merge(e.pos):
			continue
		}
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
func parseToken(token string) (wrote []tokenEntry, all bool, err error) {
	if token == "" {
		return nil, false, nil
	}
	if len(token) > maxToken {
		return nil, false, fmt.Errorf("%w: it has %d bytes, of at most %d", errToken, len(token), maxToken)
	}
	if strings.ContainsAny(token, "\r\n") { // which the decoder skips
		return nil, false, errToken
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil {
		return nil, false, fmt.Errorf("%w: %w", errToken, err)
	}
	if len(b) < 2 || b[0] != tokenVersion || b[1]&^tokenAll != 0 || len(b) == 2 && b[1] == 0 {
		return nil, false, errToken
	}
	all = b[1] == tokenAll
	seen := map[place]bool{}
	for b = b[2:]; len(b) > 0; {
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
		if !ok || seen[e.place] {
			return nil, false, errToken
		}
		seen[e.place] = true
		wrote = append(wrote, e)
	}
	return wrote, all, nil
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
