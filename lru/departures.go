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

// reportAll calls f for each departure, also when it panics for one of them: that
// panic, or the last of several, then goes on.
func reportAll[K comparable, V any](list []departure[K, V], f func(K, V, Cause)) {
	done := 0
	defer func() {
		if done < len(list) {
			reportAll(list[done:], f)
		}
	}()
	for done < len(list) {
		d := &list[done]
		done++
		f(d.key, d.value, d.cause)
	}
}
