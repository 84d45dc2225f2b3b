package lru

import "testing"

// FuzzModel lets the fuzzer choose the cache and the operations of TestModel.
func FuzzModel(f *testing.F) {
	all := setups()
	for i := range all {
		f.Add(uint16(i), []byte{3, 1, 3, 2, 0, 1, 3, 3, 9, 2, 10, 4, 11, 1, 7, 5, 8, 2, 13, 9, 12, 0})
	}
	f.Fuzz(func(t *testing.T, which uint16, ops []byte) {
		r := newRun(t, all[int(which)%len(all)])
		for i := 0; i+1 < len(ops) && i < 2000; i += 2 {
			r.step(int(ops[i])%14, int(ops[i+1]), i)
		}
	})
}
