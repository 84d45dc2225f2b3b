package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
)

// A cluster is what the processes over the same databases have in common, and nobody else has: a secret, which is in
// the first database. The names follow from it of all that they have on the broker and in Redis, and so do the codes by
// which messages are authenticated. So other services may use the same servers, of this kind or any other: they are
// neither waited for nor believed, and their clicks and links are theirs.
//
// What it does not keep out is who can read the database, or who has heard messages and sends them once more.
type cluster struct {
	key []byte
}

// cluster returns the one of the processes over these databases.
func (s *store) cluster(ctx context.Context) (cluster, error) {
	key, err := s.secret(ctx, "peers", 16)
	return cluster{key}, err
}

// These are the kinds of messages.
const (
	beatKind     = "beat"     // a member, as it is
	announceKind = "announce" // an announcement
	answerKind   = "answer"   // the ID of who has heard it; behind that in the code is where the answer goes
)

func (c cluster) mac(parts ...string) []byte {
	h := hmac.New(sha256.New, c.key)
	for _, p := range parts {
		h.Write([]byte(p))
		h.Write([]byte{0})
	}
	return h.Sum(nil)
}

// name tells what the processes have, on servers that others use as well, from what others have.
func (c cluster) name() string { return hex.EncodeToString(c.mac("name")[:8]) }

// subject returns where messages of a kind go.
func (c cluster) subject(kind string) string { return "urlshortener." + c.name() + "." + kind }

// seal returns v as a message of a kind.
func (c cluster) seal(kind string, v any) []byte {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err) // cannot be: it is strings and numbers
	}
	return append(c.mac("message", kind, string(body)), body...)
}

// open reads a message of a kind into v, and reports whether it is one.
func (c cluster) open(kind string, message []byte, v any) bool {
	if len(message) < sha256.Size {
		return false
	}
	mac, body := message[:sha256.Size], message[sha256.Size:]
	return hmac.Equal(mac, c.mac("message", kind, string(body))) && json.Unmarshal(body, v) == nil
}
