package main

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// apiKeys says whose a request is. Without any keys, everybody is the same: for trying it out.
type apiKeys struct {
	names  []string
	hashes [][sha256.Size]byte
}

// everybody is the owner of all links where there are no keys.
const everybody = "everybody"

// minKey is the shortest key that is taken: what is shorter can be guessed.
const minKey = 16

// add adds a key, as NAME=KEY.
func (k *apiKeys) add(s string) error {
	name, key, ok := strings.Cut(s, "=")
	switch {
	case !ok || name == "":
		return errors.New("must be NAME=KEY")
	case strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }): // headers have no others
		return fmt.Errorf("the key of %s must have only printable characters of ASCII, and no spaces", name)
	case len(key) < minKey:
		return fmt.Errorf("the key of %s must have at least %d characters, got %d", name, minKey, len(key))
	}
	for _, n := range k.names {
		if n == name {
			return fmt.Errorf("the name %s is there twice", name)
		}
	}
	hash := sha256.Sum256([]byte(key))
	if i := slices.Index(k.hashes, hash); i >= 0 {
		return fmt.Errorf("the key of %s is that of %s", name, k.names[i])
	}
	k.names = append(k.names, name)
	k.hashes = append(k.hashes, hash)
	return nil
}

// find returns whose key it is. It takes as long whichever key it is, and whether it is one: hashes are compared, all
// of them, in constant time.
func (k *apiKeys) find(key string) (string, bool) {
	h := sha256.Sum256([]byte(key))
	at := -1
	for i := range k.hashes {
		at = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(h[:], k.hashes[i][:]), i, at)
	}
	if at < 0 {
		return "", false
	}
	return k.names[at], true
}

// requestKey returns the key of a request.
func requestKey(r *http.Request) string {
	if kind, key, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(kind, "Bearer") {
		return strings.TrimSpace(key)
	}
	return r.Header.Get("X-API-Key")
}

// owner returns whose a request is, or answers it with 401.
func (k *apiKeys) owner(w http.ResponseWriter, r *http.Request) (string, bool) {
	if len(k.names) == 0 {
		return everybody, true
	}
	name, ok := k.find(requestKey(r))
	if !ok {
		w.Header().Set("WWW-Authenticate", `Bearer realm="links"`)
		writeProblem(w, http.StatusUnauthorized, "an API key is required: Authorization: Bearer KEY")
		return "", false
	}
	return name, true
}
