package proxy

import (
	"net/http"
	"net/netip"

	"github.com/sysblocks/sysblocks/loadbalance"
)

// HashRemoteAddr returns the hash of the address that a request has come from, for IPHash and
// ConsistentHash, or 0 if it has none. Behind another proxy that is the proxy's.
func HashRemoteAddr(r *http.Request) uint64 { return hashAddr(r.RemoteAddr) }

func hashAddr(s string) uint64 {
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return 0
	}
	return loadbalance.HashAddr(a.Addr())
}
