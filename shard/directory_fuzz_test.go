package shard

import (
	"slices"
	"strings"
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

// Whatever the names are, a statement has the words that it has with other names: a name adds none.
func FuzzSQLDirectoryNames(f *testing.F) {
	f.Add("directory", "id", "TEXT")
	f.Add("a.b", "x", "VARCHAR(36)")
	f.Add("a;b", "x--", "TEXT);")
	f.Add("a b", "id", "TEXT")
	f.Add("a", "x y", "TEXT")
	f.Add("a", "x", "TEXT, y TEXT")
	f.Add("a\n", "x\x00", "TEXT\t")
	f.Add("", "", "")
	words := func(s *SQLDirectory[string]) (all [][]string) {
		for _, query := range []string{s.CreateTable(), s.one, s.insert, s.update, s.remove} {
			all = append(all, strings.Split(query, " "))
		}
		return all
	}
	f.Fuzz(func(t *testing.T, table, column, kind string) {
		db, _ := openDirDriver(t, SQLDirectoryConfig{})
		s, err := NewSQLDirectory[string](db, SQLDirectoryConfig{Table: table, KeyColumn: column, KeyType: kind})
		if err != nil {
			return
		}
		plain, err := NewSQLDirectory[string](db, SQLDirectoryConfig{Table: "TABLE1", KeyColumn: "COLUMN1", KeyType: "TYPE1"})
		if err != nil {
			t.Fatal(err)
		}
		// The type may be several words; it is one of the statement that creates the table.
		s.config.KeyType = strings.ReplaceAll(s.config.KeyType, " ", "_")
		names := strings.NewReplacer("TABLE1", dirOr(table, "directory"), "COLUMN1", dirOr(column, "id"), "TYPE1", s.config.KeyType)
		got, want := words(s), words(plain)
		for i := range want {
			for j, word := range want[i] {
				want[i][j] = names.Replace(word)
			}
			if !slices.Equal(want[i], got[i]) {
				t.Fatalf("%q is not %q", got[i], want[i])
			}
			for _, r := range strings.Join(got[i], "") {
				if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_.?=,()", r)) {
					t.Fatalf("%q in %q", r, got[i])
				}
			}
		}
	})
}
