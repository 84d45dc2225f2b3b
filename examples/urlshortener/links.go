package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sysblocks/sysblocks/bloom"
	"github.com/sysblocks/sysblocks/shard"
	"github.com/sysblocks/sysblocks/ttlcache"
)

// links makes links, and finds them: in a cache, and behind that in the database, if a filter says that there may be
// such a link at all.
type links struct {
	store *store
	cache *ttlcache.Cache[string, link]
	guard *bloom.Guard[string, link]
	coder coder
	clock func() time.Time

	others *members // nil: there are none
	owners *owners  // and neither are these
}

const (
	negativeTTL  = 10 * time.Second
	staleIfError = time.Hour
	// staleMeanwhile is how long nobody waits for a database that hangs, as it is asked in the background.
	staleMeanwhile = 2 * time.Minute
	loadTimeout    = time.Second
	// maxTries is how many codes are tried for a link. Codes of a counter and random ones are hardly ever taken.
	maxTries = 10
)

// newLinks returns the links of a store. The filter lets all codes pass until rebuild. What is in the second level, if
// there is one, other processes see as well.
func newLinks(s *store, c coder, capacity int, ttl time.Duration, expected uint64, next ttlcache.Tier[string, link]) (*links, error) {
	l := &links{store: s, coder: c, clock: time.Now}
	var err error
	if l.guard, err = bloom.NewGuard[string, link](bloom.Config[string]{N: expected, FPR: 0.005}); err != nil {
		return nil, err
	}
	load := l.guard.Guarded(func(ctx context.Context, code string) (link, error) {
		found, err := s.get(ctx, code)
		if errors.Is(err, errNoLink) {
			err = ttlcache.ErrNotFound
		}
		return found, err
	})
	l.cache, err = ttlcache.New(ttlcache.Config[string, link]{
		Capacity: capacity, TTL: ttl, Jitter: 0.1, NegativeTTL: negativeTTL, RefreshAhead: 0.8,
		StaleIfError: staleIfError, StaleWhileRevalidate: staleMeanwhile, LoadTimeout: loadTimeout, Next: next,
		Loader: func(ctx context.Context, code string) (ttlcache.Entry[link], error) {
			// Only what is there is borrowed. That there is no such link is found out here: the owner may not have
			// heard of it yet, when this process has.
			if l.owners != nil && ctx.Value(ownKey{}) == nil && l.guard.Contains(code) {
				if owner, ok := l.owners.of(code); ok {
					if found, err := l.owners.ask(ctx, owner, code); err == nil {
						return ttlcache.Entry[link]{Value: found, TTL: borrowTTL}, nil
					}
				}
			}
			found, err := load(ctx, code)
			return ttlcache.Entry[link]{Value: found}, err
		},
	})
	return l, err
}

// rebuild makes the filter of all codes anew.
func (l *links) rebuild(ctx context.Context) error { return l.guard.Rebuild(ctx, l.store.codes(ctx)) }

// resolve returns the link of a code that leads somewhere: errNoLink if there is none, or another error if the
// database cannot be asked, and the cache does not know.
func (l *links) resolve(ctx context.Context, code string) (link, error) {
	if !validCode(code) {
		return link{}, errNoLink
	}
	before := l.trusted()
	found, err := l.cache.GetOrLoad(ctx, code)
	if errors.Is(err, ttlcache.ErrNotFound) && (before == 0 || before != l.trusted()) {
		// Another process may have made it without being able to say so.
		if found, err = l.store.get(ctx, code); err == nil {
			l.admit(code)
			l.cache.Invalidate(code)
		}
	}
	switch {
	case errors.Is(err, ttlcache.ErrNotFound), errors.Is(err, errNoLink):
		return link{}, errNoLink
	case err != nil:
		return link{}, err
	case found.gone(l.clock()):
		return link{}, errNoLink
	}
	return found, nil
}

// A draft is a link that is to be made.
type draft struct {
	Target    string
	Alias     string // "": a code is made
	Owner     string
	Permanent bool
	Expires   time.Time
}

// create makes a link, and returns it when all who are to find it can: errTaken if it was to have an alias that is
// taken.
func (l *links) create(ctx context.Context, d draft) (link, error) {
	made := link{
		Code: d.Alias, Target: d.Target, Owner: d.Owner, Permanent: d.Permanent,
		Created: l.clock().UTC().Truncate(time.Millisecond), Expires: d.Expires.UTC().Truncate(time.Millisecond),
	}
	if d.Expires.IsZero() {
		made.Expires = time.Time{}
	}
	if d.Alias != "" {
		return made, l.insert(ctx, made)
	}
	for try := range maxTries {
		code, same, err := l.coder.propose(ctx, d.Target, try)
		if err != nil {
			return link{}, err
		}
		if !validCode(code) { // a word that the service uses
			continue
		}
		made.Code = code
		err = l.insert(ctx, made)
		if !errors.Is(err, errTaken) {
			return made, err
		}
		if same { // the code belongs to the target, so this may be the same link
			if there, err := l.store.get(ctx, code); err == nil && there.Target == d.Target && there.Owner == d.Owner &&
				there.Permanent == d.Permanent && there.Expires.Equal(made.Expires) && !there.gone(l.clock()) {
				if l.others != nil { // who has made it may not have come so far
					err = l.others.report(ctx, "made", code)
				}
				return there, err
			}
		}
	}
	return link{}, fmt.Errorf("no free code after %d tries", maxTries)
}

// insert writes a link, in the order that the filter and the cache need.
func (l *links) insert(ctx context.Context, made link) error {
	l.admit(made.Code)
	insert := func() error {
		err := l.store.insert(ctx, made)
		if err == nil {
			l.drop(ctx, made.Code) // that there is none may be remembered
		}
		return err
	}
	if l.others == nil {
		return insert()
	}
	return l.others.make(ctx, made.Code, insert)
}

// admit lets the filter pass a code from now on.
func (l *links) admit(code string) { l.guard.Admit(code) }

// trusted returns the number of the time in which it is known what does not exist; see members.period. Alone, a
// process always knows.
func (l *links) trusted() uint64 {
	if l.others == nil {
		return 1
	}
	return l.others.period()
}

// join makes l one of several processes, which tell each other of the links that they make.
func (l *links) join(ctx context.Context, conn *nats.Conn, self member, log *slog.Logger) error {
	c, err := l.store.cluster(ctx)
	if err != nil {
		return err
	}
	l.others, err = newMembers(conn, c, self, memberHooks{
		admit: l.admit, drop: l.cache.Invalidate, distrust: l.guard.FailOpen, rebuild: func(ctx context.Context) error {
			err := l.rebuild(ctx)
			if err == nil {
				// What others have made, or deleted, meanwhile is not what is remembered. While the databases do not
				// answer, nothing else would be there to answer with.
				l.cache.Clear()
			}
			return err
		},
	}, log)
	if err != nil {
		return err
	}
	l.owners = newOwners(l.others, hex.EncodeToString(c.mac("owners")))
	// Links can be made when all others are known. If that takes longer, the broker is away; the others can be
	// followed meanwhile.
	wait, cancel := context.WithTimeout(ctx, 2*leaseTime)
	defer cancel()
	_, _ = l.others.await(wait, l.others.presentLocked)
	return nil
}

// remove takes a link's target away.
func (l *links) remove(ctx context.Context, code, owner string) error {
	if err := l.store.remove(ctx, code, owner, l.clock()); err != nil {
		return err
	}
	l.drop(ctx, code)
	if l.others == nil {
		return nil
	}
	return l.others.report(ctx, "drop", code)
}

// drop makes the cache forget what it knows of a code, and the second level, which tells the other processes. If that
// cannot be reached, the cache goes on trying, and the others forget everything when they see that they have lost it.
func (l *links) drop(ctx context.Context, code string) { _ = l.cache.Delete(ctx, code) }

// unavailable reports whether an error is one of databases that do not answer, so that trying again later may help.
func unavailable(err error) bool {
	if errors.Is(err, errUntold) {
		return true
	}
	var e *shard.Error
	var p *shard.PartialError
	return errors.As(err, &e) || errors.As(err, &p) || errors.Is(err, context.DeadlineExceeded)
}
