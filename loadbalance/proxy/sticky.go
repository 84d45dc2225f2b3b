package proxy

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"iter"
	"math"
	"net/http"
	"strings"
	"time"
)

// A StickyCookie has clients come back to the endpoint that has answered them before, by a cookie.
//
// The cookie is set on whatever answer is the first for a client, also on one that caches may keep for all
// (Cache-Control: public): then they hand the cookie to others as well, or do not keep the answer.
// ModifyResponse of a ReverseProxy can remove Set-Cookie from such answers.
type StickyCookie struct {
	_ struct{}

	// Name is that of the cookie, a token as RFC 6265 has it. Required.
	Name string
	// Secret is what the endpoint's ID is encrypted and authenticated with, at least 16 bytes. All
	// proxies that clients may come by need the same. Required.
	Secret []byte
	// MaxAge is how long clients keep the cookie, in whole seconds. 0: until they are closed.
	MaxAge time.Duration
	// Path is where clients send it. "": "/".
	Path string
	// Insecure has clients send it without TLS, too.
	Insecure bool
	// Readable lets scripts read it: it is not HttpOnly.
	Readable bool
	// SameSite says whether other sites' requests have it. 0: http.SameSiteLaxMode.
	SameSite http.SameSite
}

// A sticky makes cookies of IDs, and finds IDs in cookies.
//
// The value of a cookie is the ID, padded, in AES-GCM. The nonce is a MAC of it (a synthetic nonce, as
// in AES-GCM-SIV), so that there is no number of cookies after which one comes twice for different IDs.
// So an endpoint's cookies are all the same; and nothing need be remembered, by any proxy.
type sticky struct {
	config StickyCookie
	aead   cipher.AEAD
	mac    []byte // key of the nonces
}

const (
	nonceSize = 12
	padTo     = 32   // so that the length does not tell IDs apart
	maxCookie = 4000 // browsers refuse more than 4096 bytes in all
)

func newSticky(c StickyCookie) (*sticky, error) {
	switch probe := (&http.Cookie{Name: c.Name, Value: "x", Path: c.Path}); {
	case probe.Valid() != nil:
		return nil, fmt.Errorf("loadbalance/proxy: Sticky.Name must be a token, and Path that of a cookie, got %q and %q", c.Name, c.Path)
	case len(c.Secret) < 16:
		return nil, fmt.Errorf("loadbalance/proxy: Sticky.Secret must have at least 16 bytes, got %d", len(c.Secret))
	case c.MaxAge < 0 || c.MaxAge > math.MaxInt32*time.Second || c.MaxAge%time.Second != 0:
		return nil, fmt.Errorf("loadbalance/proxy: Sticky.MaxAge must be whole seconds, at least 0 and at most 68 years, got %v", c.MaxAge)
	case c.SameSite < 0 || c.SameSite > http.SameSiteNoneMode:
		return nil, fmt.Errorf("loadbalance/proxy: Sticky.SameSite must be one of the constants, got %d", c.SameSite)
	case c.SameSite == http.SameSiteNoneMode && c.Insecure:
		return nil, errors.New("loadbalance/proxy: Sticky.Insecure must be false with SameSiteNoneMode, got true")
	}
	if c.Path == "" {
		c.Path = "/"
	}
	if c.SameSite == 0 {
		c.SameSite = http.SameSiteLaxMode
	}
	keys, err := hkdf.Key(sha256.New, c.Secret, nil, "sysblocks loadbalance/proxy sticky cookie 1 "+c.Name, 64)
	if err != nil {
		return nil, fmt.Errorf("loadbalance/proxy: Sticky.Secret: %w", err)
	}
	c.Secret = nil
	block, err := aes.NewCipher(keys[:32])
	if err != nil {
		return nil, fmt.Errorf("loadbalance/proxy: Sticky.Secret: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("loadbalance/proxy: Sticky.Secret: %w", err)
	}
	return &sticky{config: c, aead: aead, mac: keys[32:]}, nil
}

// nonce returns the nonce of a padded ID.
func (s *sticky) nonce(padded []byte) []byte {
	h := hmac.New(sha256.New, s.mac)
	h.Write(padded)
	return h.Sum(nil)[:nonceSize]
}

// encode returns the value of the cookie for an endpoint.
func (s *sticky) encode(id string) string {
	padded := append([]byte(id), 1)
	padded = append(padded, make([]byte, (padTo-len(padded)%padTo)%padTo)...)
	nonce := s.nonce(padded)
	return base64.RawURLEncoding.EncodeToString(s.aead.Seal(nonce, nonce, padded, nil))
}

// decode returns the ID in the value of a cookie, or "" if this did not come from encode.
func (s *sticky) decode(value string) string {
	if len(value) > maxCookie || strings.ContainsAny(value, "\r\n") { // which base64 would skip
		return ""
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(value)
	if err != nil || len(b) < nonceSize {
		return ""
	}
	padded, err := s.aead.Open(nil, b[:nonceSize], b[nonceSize:], nil)
	if err != nil {
		return ""
	}
	return string(bytes.TrimSuffix(bytes.TrimRight(padded, "\x00"), []byte{1}))
}

// ids returns the IDs in a request's cookies. There may be several: those of other paths and domains
// come with the same name.
func (s *sticky) ids(req *http.Request) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, c := range req.CookiesNamed(s.config.Name) {
			if id := s.decode(c.Value); id != "" && !yield(id) {
				return
			}
		}
	}
}

// set has the client come back to an endpoint.
func (s *sticky) set(h http.Header, id string) {
	value := s.encode(id)
	if len(value) > maxCookie {
		return
	}
	c := http.Cookie{
		Name: s.config.Name, Value: value, Path: s.config.Path, MaxAge: int(s.config.MaxAge / time.Second),
		Secure: !s.config.Insecure, HttpOnly: !s.config.Readable, SameSite: s.config.SameSite,
	}
	h.Add("Set-Cookie", c.String())
}
