package shard

import (
	"testing"
	"testing/synctest"
)

// Calls that the fuzzer chooses, compared with the model.
func FuzzDirectory(f *testing.F) {
	f.Add([]byte{}, uint8(0))
	f.Add([]byte("a row comes before the data, and goes after it"), uint8(1))
	f.Add([]byte{3, 1, 5, 1, 0, 2, 5, 2, 0, 15, 5, 0, 0, 12, 0, 1, 5, 0, 0, 20, 5, 0, 0, 14, 7, 5, 0, 0, 20}, uint8(2))
	f.Fuzz(func(t *testing.T, data []byte, kind uint8) {
		if len(data) > 2000 {
			return
		}
		at := 0
		next := func(n int) int {
			if at == len(data) {
				return 0
			}
			at++
			return int(data[at-1]) % n
		}
		synctest.Test(t, func(t *testing.T) {
			dirCompare(t, "fuzz", []int{1000, 1000, 3, 1}[kind%4], len(data)/4, kind%4 == 1, next)
		})
	})
}

// No configuration makes a statement of other words than it should.
func FuzzSQLDirectoryNames(f *testing.F) {
	f.Add("directory", "id", "TEXT")
	f.Add("a.b", "x", "VARCHAR(36)")
	f.Add("a;b", "x--", "TEXT);")
	f.Fuzz(func(t *testing.T, table, column, kind string) {
		c := SQLDirectoryConfig{Table: table, KeyColumn: column, KeyType: kind}
		db, _ := openDirDriver(t, SQLDirectoryConfig{})
		s, err := NewSQLDirectory[string](db, c)
		if err != nil {
			return
		}
		for _, r := range s.remove + s.one {
			if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '.' || r == ' ' || r == '?' || r == '=' || r == ',') {
				t.Fatalf("%q: %s", r, s.remove)
			}
		}
	})
}
