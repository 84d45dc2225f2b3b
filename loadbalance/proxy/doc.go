// Package proxy sends HTTP requests and TCP connections to the endpoints of a loadbalance.Pool.
package proxy
