package shard

import (
	"maps"
	"slices"
	"strings"
)

// listNames returns the names for an error message: "a, b or c".
func listNames[T comparable](names map[T]string) string {
	list := slices.Sorted(maps.Values(names))
	last := len(list) - 1
	return strings.Join(list[:last], ", ") + " or " + list[last]
}
