package ttlcache

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
)

// FuzzModel lets the fuzzer choose the cache and the operations of TestModel.
func FuzzModel(f *testing.F) {
	for i := range byte(10) {
		rng := rand.New(rand.NewPCG(uint64(i), 7))
		data := make([]byte, 300)
		for j := range data {
			data[j] = byte(rng.Uint32())
		}
		f.Add(i, data)
	}
	names := []string{"plain", "no ttl", "sliding", "lifetime", "cap", "stale", "revalidate", "weighed", "all of them"}
	f.Fuzz(func(t *testing.T, kind byte, data []byte) {
		synctest.Test(t, func(t *testing.T) {
			next := func(n int) int {
				if len(data) == 0 {
					return 0
				}
				b := data[0]
				data = data[1:]
				return int(b) % n
			}
			config := modelConfigs()[names[int(kind)%len(names)]]
			compare(t, "fuzz", config, 1+next(12), min(len(data)/2, 1000), next)
		})
	})
}
