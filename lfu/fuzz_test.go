package lfu

import "testing"

// FuzzModel lets the fuzzer choose the cache and the operations of TestModel.
func FuzzModel(f *testing.F) {
	all := setups()
	for i := range all {
		f.Add(uint16(i), []byte{4, 1, 4, 2, 0, 1, 4, 3, 10, 2, 11, 4, 12, 1, 8, 5, 9, 2, 14, 9, 13, 0})
	}
	f.Fuzz(func(t *testing.T, which uint16, ops []byte) {
		r := newRun(t, all[int(which)%len(all)])
		for i := 0; i+1 < len(ops) && i < 2000; i += 2 {
			r.step(int(ops[i])%15, int(ops[i+1]), i)
		}
	})
}
