// Package loadbalance chooses which of several endpoints gets a request: servers, connections, clients,
// of any type.
//
// Pool is what callers use: it knows the endpoints, their health and what is in flight there. A Policy
// chooses among those that can be used.
//
// Do not use it where it matters which endpoint does the work: who has a key, package consistenthash
// says; and where all requests go through a proxy that balances them, one balancer is enough.
//
// # Which policy to choose
//
//	                            what it goes by                  choose it
//	PowerOfTwoChoices           requests in flight, of two       by default
//	LeastResponseTime           latency and requests in flight,  endpoints differ, or fail, in ways that
//	                            of two                           only their answers show
//	LeastConnections            requests in flight, of all up    there are few endpoints, and requests
//	                            to 32                            take long: queries, streams
//	WeightedLeastConnections    that, for their weights          and they differ in size
//	RoundRobin                  nothing                          requests are alike, and so are endpoints
//	SmoothWeightedRoundRobin    weights, exactly                 requests are alike, and endpoints differ
//	                                                             in size
//	Random, WeightedRandom      nothing; weights                 there are so many callers that their turns
//	                                                             make no difference
//	IPHash                      a hash of the client             sessions live in the memory of endpoints
//	ConsistentHash              a hash of a key, and how full    endpoints have caches
//	                            endpoints are
//	PreferZone                  zones, and an inner policy       traffic between zones is slow or dear
//
// All are O(1) but LeastConnections. Package proxy has what goes over HTTP and TCP: a client-side
// balancer and proxies for Layer 7 and Layer 4. Budget bounds retries, and Breaker stops asking a
// service that fails.
//
// # What can be relied on
//
// A pick takes no lock and allocates nothing. It goes by a list of the endpoints that can be used,
// which is made anew when that changes, so it never looks at those that cannot; what is known of
// endpoints is kept by their IDs when they change. Once Remove or Drain has marked an endpoint, no pick
// that begins then returns it, and Drain waits for all that were picked before.
package loadbalance
