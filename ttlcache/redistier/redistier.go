package redistier

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sysblocks/sysblocks/ttlcache"
)

// A Config says how values lie in Redis. Client and Prefix are required.
type Config[K comparable, V any] struct {
	_ struct{}

	// Client is the client, which the Tier does not close. All kinds will do: single server,
	// Sentinel, Cluster. Callers wait for Redis as long as its options say, which is seconds
	// when it is down. For a cache they should say MaxRetries: -1, DialerRetries: 1,
	// ContextTimeoutEnabled: true, and short DialTimeout, ReadTimeout and WriteTimeout.
	Client redis.UniversalClient

	// Prefix begins every key in Redis, and names the channel for messages. Caches
	// with the same Prefix share their values, and must agree on Key and Codec.
	Prefix string

	// Key returns a key as it is in Redis, behind Prefix, and ParseKey is its inverse. Nil, both:
	// strings as they are, and integers in decimal.
	Key      func(K) string
	ParseKey func(string) (K, error) // see Key

	// Codec turns values into bytes and back. Nil: JSON.
	Codec Codec[V]

	// CompressAbove is the size in bytes above which a value is compressed, with
	// Zstandard, if that makes it smaller. 0 is 1024, and a negative number never.
	CompressAbove int

	// MaxSize is the largest size in bytes of an encoded value, before compression and after
	// decompression; larger ones are an error. 0 is 64 MiB.
	MaxSize int

	// LeaseTime is the longest time that a load may take: what takes longer is not kept, neither
	// in Redis nor in the process. 0 is one minute. See Leaser in package ttlcache.
	LeaseTime time.Duration

	// Ping is how long the line for messages may be silent before it is probed, and how long
	// the answer may take. 0 is one second.
	Ping time.Duration
}

// A Tier is a ttlcache.Tier on Redis, and tells of the changes of others. Each cache needs a
// Tier of its own. Tier is safe for concurrent use by multiple goroutines. The changes of a key
// are linearizable, by Redis; messages about them come a little later.
type Tier[K comparable, V any] struct {
	config  Config[K, V]
	channel string
	origin  string // of this Tier's messages
	coding  coding[V]
}

var _ interface {
	ttlcache.Tier[string, int]
	ttlcache.Invalidator[string]
	ttlcache.Leaser[string, int]
} = (*Tier[string, int])(nil)

// New returns a Tier, or an error that names the field of config that is wrong. It does not
// connect.
func New[K comparable, V any](config Config[K, V]) (*Tier[K, V], error) {
	switch {
	case config.Client == nil:
		return nil, errors.New("redistier: Client must not be nil")
	case config.Prefix == "":
		return nil, errors.New("redistier: Prefix must not be empty")
	case (config.Key == nil) != (config.ParseKey == nil):
		return nil, errors.New("redistier: Key and ParseKey must both be given, or neither")
	case config.MaxSize < 0:
		return nil, fmt.Errorf("redistier: MaxSize must be at least 0, got %d", config.MaxSize)
	case config.LeaseTime < 0 || config.LeaseTime > 0 && config.LeaseTime < time.Millisecond:
		return nil, fmt.Errorf("redistier: LeaseTime must be at least 1ms, or 0, got %v", config.LeaseTime)
	case config.Ping < 0:
		return nil, fmt.Errorf("redistier: Ping must be at least 0, got %v", config.Ping)
	}
	if config.Key == nil {
		var ok bool
		if config.Key, config.ParseKey, ok = plainKeys[K](); !ok {
			return nil, fmt.Errorf("redistier: Key and ParseKey must be given for keys of type %T", *new(K))
		}
	}
	if config.Codec == nil {
		config.Codec = JSON[V]{}
	}
	if config.CompressAbove == 0 {
		config.CompressAbove = 1024
	}
	if config.MaxSize == 0 {
		config.MaxSize = 64 << 20
	}
	if config.LeaseTime == 0 {
		config.LeaseTime = time.Minute
	}
	if config.Ping == 0 {
		config.Ping = time.Second
	}
	t := &Tier[K, V]{config: config, channel: "sysblocks:" + config.Prefix, origin: rand.Text()}
	t.coding = coding[V]{codec: config.Codec, compressAbove: config.CompressAbove, maxSize: config.MaxSize}
	if err := t.coding.init(); err != nil {
		return nil, fmt.Errorf("redistier: MaxSize %d: %w", config.MaxSize, err)
	}
	return t, nil
}

// The scripts make each operation one step: the value, what is left of its time, its message, and
// the leases, of which there is one at a time for a key, shared by all who have it. KEYS[1] is the
// key, and KEYS[2] that of its lease. They are run by their hashes, and sent when the
// server does not know them, as after a restart.
var (
	// ARGV: the lease to give if there is none; its time; whether to give one in any case.
	getScript = redis.NewScript(`
local v = redis.call('GET', KEYS[1])
local left = 0
if v then
	left = redis.call('PTTL', KEYS[1])
	if ARGV[3] == '0' then return {v, left, ''} end
end
redis.call('SET', KEYS[2], ARGV[1], 'NX')
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return {v, left, redis.call('GET', KEYS[2])}`)

	// ARGV: the value; its time, 0 for none; channel and message; the lease, or nothing.
	setScript = redis.NewScript(`
if ARGV[5] ~= '' and redis.call('GET', KEYS[2]) ~= ARGV[5] then return 0 end
if ARGV[2] == '0' then
	redis.call('SET', KEYS[1], ARGV[1])
else
	redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
redis.call('DEL', KEYS[2])
redis.call('PUBLISH', ARGV[3], ARGV[4])
return 1`)

	// ARGV: channel and message.
	deleteScript = redis.NewScript(`
redis.call('DEL', KEYS[1])
redis.call('DEL', KEYS[2])
redis.call('PUBLISH', ARGV[1], ARGV[2])
return 1`)
)

// keys returns the keys of a value and of its lease, which are in the same slot of a Cluster,
// unless there is a "}" in the key that ends no tag.
func (t *Tier[K, V]) keys(key string) []string {
	key = t.config.Prefix + key
	if _, tag, ok := strings.Cut(key, "{"); ok {
		if i := strings.IndexByte(tag, '}'); i > 0 {
			return []string{key, key + ":lease"} // the tag decides
		}
	}
	return []string{key, "{" + key + "}:lease"}
}

// Get returns the value under k, and how long it is still fresh. A value that cannot be decoded
// is an error. Complexity: one round trip.
func (t *Tier[K, V]) Get(ctx context.Context, k K) (v V, remaining time.Duration, ok bool, err error) {
	v, remaining, ok, _, err = t.GetLease(ctx, k, false)
	return v, remaining, ok, err
}

// GetLease is Get, and takes a lease for Fill if k is not there, or if always is set. A lease is
// good for Config.LeaseTime, if nobody sets, fills or deletes k. Complexity: one round trip.
func (t *Tier[K, V]) GetLease(ctx context.Context, k K, always bool) (v V, remaining time.Duration, ok bool, lease string, err error) {
	key := t.config.Key(k)
	want := 0
	if always {
		want = 1
	}
	reply, err := getScript.Run(ctx, t.config.Client, t.keys(key), rand.Text(), t.config.LeaseTime.Milliseconds(), want).Slice()
	if err != nil {
		return v, 0, false, "", fmt.Errorf("redistier: Get %q: %w", key, err)
	}
	if len(reply) != 3 {
		return v, 0, false, "", fmt.Errorf("redistier: Get %q: the server's answer has %d parts, want 3", key, len(reply))
	}
	lease, _ = reply[2].(string)
	data, ok := reply[0].(string)
	left, _ := reply[1].(int64)
	if !ok {
		return v, 0, false, lease, nil
	}
	v, err = t.coding.decode(data)
	if (err != nil || left == 0) && !always {
		// What is there is of no use, and is to be replaced.
		_, _, _, lease, _ = t.GetLease(ctx, k, true)
	}
	switch {
	case err != nil:
		return *new(V), 0, false, lease, fmt.Errorf("redistier: Get %q: %w", key, err)
	case left < 0:
		return v, ttlcache.Forever, true, lease, nil
	case left == 0: // less than a millisecond
		return *new(V), 0, false, lease, nil
	}
	return v, time.Duration(left) * time.Millisecond, true, lease, nil
}

// Fill is Set if the lease is still good, and else does nothing and returns false.
// Complexity: one round trip.
func (t *Tier[K, V]) Fill(ctx context.Context, k K, v V, ttl time.Duration, lease string) (filled bool, err error) {
	if lease == "" {
		return false, nil
	}
	return t.set(ctx, k, v, ttl, lease)
}

// Set stores v under k for a time, in whole milliseconds, and tells the others. Less than one
// millisecond removes k. Complexity: one round trip.
func (t *Tier[K, V]) Set(ctx context.Context, k K, v V, ttl time.Duration) error {
	_, err := t.set(ctx, k, v, ttl, "")
	return err
}

func (t *Tier[K, V]) set(ctx context.Context, k K, v V, ttl time.Duration, lease string) (bool, error) {
	key := t.config.Key(k)
	data, err := t.coding.encode(v)
	if err != nil {
		return false, fmt.Errorf("redistier: Set %q: %w", key, err)
	}
	px := ttl.Milliseconds()
	if px < 1 {
		if lease != "" {
			return true, nil // there is nothing to fill
		}
		return true, t.Delete(ctx, k)
	}
	if ttl == ttlcache.Forever || px > maxPX {
		px = 0
	}
	n, err := setScript.Run(ctx, t.config.Client, t.keys(key), data, px, t.channel, t.message(key), lease).Int()
	if err != nil {
		return false, fmt.Errorf("redistier: Set %q: %w", key, err)
	}
	return n == 1, nil
}

// maxPX is the longest time that Redis takes, in ms, with the present time added to it, and a
// good deal less than that.
const maxPX = 1 << 52

// Delete removes k, and tells the others, whether it was there or not. Complexity: one round trip.
func (t *Tier[K, V]) Delete(ctx context.Context, k K) error {
	key := t.config.Key(k)
	err := deleteScript.Run(ctx, t.config.Client, t.keys(key), t.channel, t.message(key)).Err()
	if err != nil {
		return fmt.Errorf("redistier: Delete %q: %w", key, err)
	}
	return nil
}

// message returns what is published when a key changes: who has changed it, a colon, and the key.
func (t *Tier[K, V]) message(key string) string { return t.origin + ":" + key }

// changed returns the key of a message; mine is true for those of this Tier, and all for one
// that means every key.
func (t *Tier[K, V]) changed(message string) (k K, mine, all bool) {
	origin, key, ok := strings.Cut(message, ":")
	if origin == t.origin {
		return k, true, false
	}
	if !ok || key == "" && origin == "" {
		return k, false, true
	}
	k, err := t.config.ParseKey(key)
	return k, false, err != nil // a key that we cannot read may be any
}
