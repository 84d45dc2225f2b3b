package shard

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// underRace is whether the race detector is on; see race_test.go.
var underRace bool

func TestPartState(t *testing.T) {
	for s, name := range map[PartState]string{Serving: "serving", Migrating: "migrating", Fenced: "fenced"} {
		require.Equal(t, name, s.String())
		text, err := s.MarshalText()
		require.NoError(t, err)
		require.Equal(t, name, string(text))
		var back PartState
		require.NoError(t, back.UnmarshalText(text))
		require.Equal(t, s, back)
	}
	require.Equal(t, "PartState(3)", PartState(3).String())
	_, err := PartState(3).MarshalText()
	require.EqualError(t, err, "shard: State must be serving, migrating or fenced, got PartState(3)")
	s := Fenced
	require.EqualError(t, s.UnmarshalText([]byte("Serving")), `shard: State must be serving, migrating or fenced, got "Serving"`)
	require.Equal(t, Fenced, s)
}
