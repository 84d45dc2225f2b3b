package lru

// departures are the values that have left a cache by one call, and are reported to
// OnEvict when the call has released its lock. A nil *departures collects nothing.
type departures[K comparable, V any] struct {
	list []departure[K, V]
}

type departure[K comparable, V any] struct {
	key   K
	value V
	cause Cause
}

// keepDepartures is the longest list whose memory is kept for the next call.
const keepDepartures = 64

func (d *departures[K, V]) add(k K, v V, cause Cause) {
	if d != nil {
		d.list = append(d.list, departure[K, V]{k, v, cause})
	}
}

// report calls f for each departure, and empties the list.
func (d *departures[K, V]) report(f func(K, V, Cause)) {
	list := d.list
	d.list = list[:0]
	if cap(list) > keepDepartures {
		d.list = nil
	}
	defer clear(list)
	reportAll(list, f)
}

// reportAll calls f for each departure, also when f panics for one of them: that panic
// then goes on, and those of later calls are dropped.
func reportAll[K comparable, V any](list []departure[K, V], f func(K, V, Cause)) {
	next := func() {
		d := &list[0]
		list = list[1:]
		f(d.key, d.value, d.cause)
	}
	defer func() {
		for len(list) > 0 { // a panic or a Goexit is under way
			func() {
				defer func() { _ = recover() }()
				next()
			}()
		}
	}()
	for len(list) > 0 {
		next()
	}
}
