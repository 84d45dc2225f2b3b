package redislimit

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sysblocks/sysblocks/ratelimit/dist"
)

// A Config says where the state lies. Client is required.
type Config struct {
	_ struct{}

	// Client is the client, which the Backend does not close: a single server's, Sentinel's or
	// Cluster's. It may be the one that the application has, with any settings: see dist.Config.Timeout.
	Client redis.UniversalClient

	// Prefix begins every key in Redis. It is without braces, and may be empty.
	Prefix string
}

// A Backend is a dist.Backend on Redis.
//
// A Backend is safe for concurrent use by multiple goroutines. Its decisions are linearizable, by
// Redis: as long as one server has the key, and does not lose what it had.
type Backend struct {
	prefix  string
	batcher batcher
}

var (
	_ dist.Backend = (*Backend)(nil)
	_ dist.Deleter = (*Backend)(nil)
)

// New returns a Backend, or an error that names the field of config that is wrong. It does not connect.
func New(config Config) (*Backend, error) {
	if config.Client == nil {
		return nil, errors.New("redislimit: Client must not be nil")
	}
	if strings.ContainsAny(config.Prefix, "{}") {
		return nil, fmt.Errorf("redislimit: Prefix must be without braces, got %q", config.Prefix)
	}
	_, single := config.Client.(*redis.Client)
	return &Backend{prefix: config.Prefix, batcher: batcher{client: config.Client, single: single}}, nil
}

// NewLimiter returns a dist.Limiter on Redis, for those who need no Prefix: config is without Backend.
func NewLimiter(client redis.UniversalClient, config dist.Config) (*dist.Limiter, error) {
	if config.Backend != nil {
		return nil, errors.New("redislimit: Backend must be nil, as it is made of the client")
	}
	b, err := New(Config{Client: client})
	if err != nil {
		return nil, err
	}
	config.Backend = b
	return dist.New(config)
}

// The script decides about all limits of a key in one step, and one round trip: it is sent by its
// hash, and in full when the server does not know it, as after a restart.
//
// KEYS[1] is the state: the theoretical arrival times of the limits in microseconds since 1970, in
// decimal, with spaces between. KEYS[2] is what remembers the request; without it, nothing does.
// ARGV is how long it does, in milliseconds; whether to take (1) or to look (0); then for each
// limit what the tokens cost, and how far ahead of now its time may be, in microseconds. The reply
// is whether the tokens were taken, or would be, and how far ahead each time is.
//
// All numbers are whole and below 2^53 (see dist.Rate), and are written with '%.0f', as tostring
// gives 14 digits. SET with NX both finds a request that has been allowed before and remembers this
// one. One that is refused may have taken the last tokens itself, the first time: so it is looked
// for then, too.
//
// The state expires in the millisecond in which the last time is reached, or later. It counts from
// the beginning of the present one, as Redis does, or it could expire almost one too early.
const source = `
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local state = redis.call('GET', KEYS[1])
local tat = string.gmatch(state or '', '%d+')
local fits, behind = true, false
local reply = {1}
for i = 4, #ARGV, 2 do
	local tau = tonumber(ARGV[i])
	local ahead = (tonumber(tat() or 0)) - now
	if ahead < 0 then
		ahead = 0
	elseif ahead > tau then
		ahead, behind = tau, true
	end
	if ahead + ARGV[i - 1] > tau then fits = false end
	reply[#reply + 1] = ahead
end
local take = fits and ARGV[2] == '1'
if take then
	if KEYS[2] and not redis.call('SET', KEYS[2], '', 'NX', 'PX', ARGV[1]) then take = false end
elseif not fits and not (KEYS[2] and redis.call('EXISTS', KEYS[2]) == 1) then
	reply[1] = 0
end
if take or behind then
	local last, tats = 0, {}
	for i = 2, #reply do
		if take then reply[i] = reply[i] + ARGV[2 * i - 1] end
		if reply[i] > last then last = reply[i] end
		tats[i - 1] = string.format('%.0f', now + reply[i])
	end
	local px = math.ceil((now % 1000 + last) / 1000)
	redis.call('SET', KEYS[1], table.concat(tats, ' '), 'PX', px)
end
return reply`

var script = redis.NewScript(source)

// maxKey is the length above which keys are hashed, as they are in Redis once for the state and
// once for each request that is remembered.
const maxKey = 64

// key returns the key of the state in Redis. In a Cluster, what is between braces decides where it
// lies; so a key that is empty or has braces itself is hashed. With a hash there is "#" in front of it,
// so that no other key is the same.
func (b *Backend) key(name, key string) string {
	if key == "" || len(key) > maxKey || strings.ContainsAny(key, "{}") {
		sum := sha256.Sum256([]byte(key))
		return b.prefix + name + "#{" + base64.RawURLEncoding.EncodeToString(sum[:]) + "}"
	}
	return b.prefix + name + ":{" + key + "}"
}

// arguments returns KEYS and ARGV.
func (b *Backend) arguments(r *dist.Request) (keys []string, args []any) {
	keys = make([]string, 1, 2)
	keys[0] = b.key(r.Name, r.Key)
	// 1 ms is the least that Redis knows, and a year the most that anybody needs.
	window := int64(min(r.Window, 365*24*time.Hour)+time.Millisecond-1) / int64(time.Millisecond)
	if window > 0 && !r.Peek {
		keys = append(keys, keys[0]+string(r.ID[:]))
	}
	args = make([]any, 2, 2+2*len(r.Rates))
	args[0], args[1] = window, !r.Peek
	for _, rate := range r.Rates {
		args = append(args, r.N*rate.Interval, rate.Burst*rate.Interval)
	}
	return keys, args
}

// Take is that of dist.Backend. Complexity: one round trip, which callers at the same time share if
// the client is one of a single server, or two when the server does not know the script.
func (b *Backend) Take(ctx context.Context, r *dist.Request) (dist.Reply, error) {
	keys, args := b.arguments(r)
	values, err := b.batcher.do(&entry{ctx: ctx, keys: keys, args: args})
	if err != nil {
		return dist.Reply{}, fmt.Errorf("redislimit: %w", err)
	}
	if len(values) != 1+len(r.Rates) {
		return dist.Reply{}, fmt.Errorf("redislimit: the server's answer has %d parts, want %d", len(values), 1+len(r.Rates))
	}
	return dist.Reply{Allowed: values[0] == 1, Ahead: values[1:]}, nil
}

// Delete is that of dist.Deleter. Complexity: one round trip.
func (b *Backend) Delete(ctx context.Context, name, key string) error {
	if err := b.batcher.client.Del(ctx, b.key(name, key)).Err(); err != nil {
		return fmt.Errorf("redislimit: %w", err)
	}
	return nil
}
