// Package proxy sends HTTP requests and TCP connections to the endpoints of a loadbalance.Pool: from a
// client, or as a proxy for clients that know nothing of it.
//
// Do not use it where a proxy stands before the endpoints already, and balances. It does not cache,
// compress, limit or authenticate; other handlers do that, around it. A request is tried with one
// endpoint at a time: it is never sent to a second one because the first is slow.
//
// # Which to use
//
//	                    what it balances                       choose it
//	NewTransport        requests of an http.Client             the clients are your own programs: there is no
//	                                                           hop more
//	NewReverseProxy     requests that a server gets (Layer 7)  clients are anybody: browsers, other programs
//	NewTCPProxy         connections (Layer 4)                  it is not HTTP, or must not be looked into; all
//	                                                           requests of a connection go to one endpoint
//	CheckHTTP           nothing: it is a check for the Pool    endpoints can say by HTTP whether they are well
//
// gRPC goes through NewReverseProxy, if the server and Base speak HTTP/2; each call is balanced.
// Through NewTCPProxy only connections would be, and those of gRPC are few and last. WebSocket and
// server-sent events go through both.
//
// # What is retried
//
// A request is tried with another endpoint, up to Tries in all, if Budget has a retry left and its context
// has not ended:
//
//	                                        GET HEAD OPTIONS TRACE PUT DELETE,    POST PATCH and others
//	                                        or with Idempotency-Key
//	no connection: refused, DNS, handshake  yes                                   yes
//	connection lost before the answer       yes                                   no
//	no answer within TryTimeout             yes                                   no
//	answer with a status of RetryStatus     yes                                   no
//	other answers                           no                                    no
//	answer that breaks off                  no: a part of it was handed on        no
//	the request's body cannot be read       no                                    no
//	the caller has given up                 no                                    no
//
// In all cases the body must be there again. There is none, or GetBody of the request makes it, as
// http.NewRequest has it for what is in memory; or nothing of it was read; or it was kept:
// NewReverseProxy keeps what is sent of it, up to MaxBufferedBody, while it is sent, so nothing waits
// for it. (Of a POST it keeps 4 KiB. That helps where a connection that was not used for long turns out
// to be closed: an http.Transport then takes another by itself, which is no retry, as the first has got
// nothing.)
//
// When all endpoints that are available have been tried, it waits, by Backoff, and begins anew; but not
// if the answer has Retry-After: that is handed on, as it is not to be earlier. When there are no more
// tries, the last answer is handed on as it is, if the last try has one.
//
// Retries do not replace health checks: each is one more request, Budget ends them when many are needed,
// and what must not be sent twice is not retried. An endpoint that fails is to be found and left out, by
// the Pool's checks or its ejection.
//
// # What endpoints are charged with
//
// Classify has the Outcome of each status and error, from which the Pool ejects endpoints. A request
// that the caller has given up, and one whose body could not be read, say nothing about the endpoint:
// they are Canceled. To have given up is also to have set a deadline, or Timeout of an http.Client, that
// has passed: one caller that waits for 10 ms would have endpoints ejected for all. It is TryTimeout that
// says how slow an endpoint may be. A
// request is in flight until the body of its answer has ended; its latency is the time to the header,
// or that of connecting in a TCPProxy. So a stream of an hour is in flight for an hour, but not slow. A
// body that is neither read to its end nor closed stays in flight for ever, as it would keep a
// connection for ever with package net/http alone. So does a WebSocket whose client has gone, as long as
// the endpoint goes on with a connection of which it has read the end.
//
// # Servers
//
// NewReverseProxy returns a handler. Its server should have ReadHeaderTimeout and IdleTimeout set; and
// ReadTimeout, or a deadline of http.ResponseController, as otherwise a client that does not send the
// body it has announced is waited for without an end, also with TryTimeout. For endpoints that answer
// while they still get the body, over HTTP/1, the handler must be called after
// http.ResponseController.EnableFullDuplex, as package net/http otherwise reads the body to its end
// first.
//
// A client that upgrades its connection has to wait for status 101 before it sends anything else: what
// comes earlier may be lost, in the buffer of the server.
//
// The IdleConnTimeout of Base should be shorter than the time after which endpoints close idle
// connections, and there should be no Proxy in it.
package proxy
