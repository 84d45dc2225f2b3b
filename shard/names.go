package shard

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// listNames returns the names for an error message: "a, b or c".
func listNames[T comparable](names map[T]string) string {
	list := slices.Sorted(maps.Values(names))
	last := len(list) - 1
	return strings.Join(list[:last], ", ") + " or " + list[last]
}

// abbreviate returns the beginning of a key, for error messages.
func abbreviate(k any) string {
	const most = 64
	s := fmt.Sprintf("%v", k)
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strconv.Quote(s)
}
