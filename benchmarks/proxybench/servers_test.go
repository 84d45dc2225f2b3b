//go:build servers

package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestAll measures each once, and sees that all have answered.
func TestAll(t *testing.T) {
	o, err := parse([]string{"-rounds", "1", "-duration", "1s", "-connections", "8"})
	require.NoError(t, err)
	r, err := o.measure(t.Context())
	require.NoError(t, err)
	for _, c := range contestants {
		results := r.results[c.name]
		require.Len(t, results, 1, c.name)
		assert.Positive(t, results[0].rate, c.name)
		assert.Zero(t, results[0].errors, c.name)
		if !c.tcp {
			assert.Greater(t, results[0].p99, time.Duration(0), c.name)
		}
	}
}
