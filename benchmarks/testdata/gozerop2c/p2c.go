// Package p2c registers the balancer of go-zero's RPC client, "p2c_ewma", with gRPC.
//
// It is in a package that only those below zrpc may import, and the one that does, zrpc itself, needs the client
// of Kubernetes: 800 packages, which take minutes to compile. So this module has a path below zrpc. It adds
// nothing to what it imports.
package p2c

import _ "github.com/zeromicro/go-zero/zrpc/internal/balancer/p2c" // registers itself
