package proxy

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
)

// signature begins version 2 of the PROXY protocol.
const signature = "\r\n\r\n\x00\r\nQUIT\n"

// proxyHeader returns what tells an endpoint, in version 1 or 2 of the PROXY protocol (W. Tarreau, "The
// PROXY protocol", 2020), that a connection has come from one address to another. If they are not those
// of TCP, it says that it does not know.
func proxyHeader(version int, from, to net.Addr) []byte {
	a, b, known := tcpAddrs(from, to)
	is4 := known && a.Addr().Is4() && b.Addr().Is4()
	if version == 1 {
		switch {
		case !known:
			return []byte("PROXY UNKNOWN\r\n")
		case is4:
			return fmt.Appendf(nil, "PROXY TCP4 %s %s %d %d\r\n", a.Addr(), b.Addr(), a.Port(), b.Port())
		}
		return fmt.Appendf(nil, "PROXY TCP6 %s %s %d %d\r\n", full(a.Addr()), full(b.Addr()), a.Port(), b.Port())
	}
	h := []byte(signature)
	switch {
	case !known:
		return append(h, 0x20, 0, 0, 0) // LOCAL: the addresses are those of the connection
	case is4:
		h = append(h, 0x21, 0x11, 0, 12)
		h = append(append(h, a.Addr().AsSlice()...), b.Addr().AsSlice()...)
	default:
		h = append(h, 0x21, 0x21, 0, 36)
		x, y := a.Addr().As16(), b.Addr().As16()
		h = append(append(h, x[:]...), y[:]...)
	}
	h = binary.BigEndian.AppendUint16(h, a.Port())
	return binary.BigEndian.AppendUint16(h, b.Port())
}

// full returns an address in IPv6 form, as both must be if one is.
func full(a netip.Addr) string { return netip.AddrFrom16(a.As16()).String() }

// tcpAddrs returns two addresses without their zones, which mean nothing elsewhere, and whether they
// are those of TCP.
func tcpAddrs(from, to net.Addr) (a, b netip.AddrPort, ok bool) {
	x, ok := from.(*net.TCPAddr)
	y, both := to.(*net.TCPAddr)
	if !ok || !both {
		return a, b, false
	}
	a, b = x.AddrPort(), y.AddrPort()
	a = netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
	b = netip.AddrPortFrom(b.Addr().Unmap().WithZone(""), b.Port())
	return a, b, a.Addr().IsValid() && b.Addr().IsValid()
}
