package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRun(t *testing.T) {
	in := `goos: linux
BenchmarkGet/capacity=10/impl=slow/round=1-2 	100	 80 ns/op	 0 B/op
BenchmarkGet/capacity=10/impl=sysblocks/round=1-2 	100	 30 ns/op	 0 B/op
BenchmarkGet/capacity=10/impl=quick/round=1-2 	100	 60 ns/op
BenchmarkGet/capacity=10/impl=sysblocks/round=2-2 	100	 10 ns/op
BenchmarkGet/capacity=10/impl=quick/round=2-2 	100	 40 ns/op
BenchmarkMemory/impl=quick 	1	 1000 ns/op	 50 B/entry
BenchmarkMemory/impl=sysblocks 	1	 1000 ns/op	 40 B/entry
BenchmarkOther 	1	 1000 ns/op
PASS
`
	var out strings.Builder
	require.NoError(t, run(strings.NewReader(in), &out, false))
	require.Equal(t, `| workload      | unit    | sysblocks | slow | quick | to the best other |
|---            |---      |---:       |---:  |---:   |---                |
| Get 10 2 CPUs | ns/op   | 20.0      | 80.0 | 50.0  | **0.38** (quick)  |
| Memory        | B/entry | 40.0      |      | 50.0  | **0.80** (quick)  |
`, out.String())
	out.Reset()
	require.NoError(t, run(strings.NewReader(in), &out, true))
	require.Equal(t, `| workload      | unit    | sysblocks | slow        | quick       | to the best other |
|---            |---      |---:       |---:         |---:         |---                |
| Get 10 2 CPUs | ns/op   | 20.0      | 80.0 (0.38) | 50.0 (0.38) | **0.38** (quick)  |
| Memory        | B/entry | 40.0      |             | 50.0 (0.80) | **0.80** (quick)  |
`, out.String())
	require.ErrorContains(t, run(strings.NewReader("PASS\n"), &out, false), "no benchmark")
}

func TestOurs(t *testing.T) {
	defer func(was string) { ours = was }(ours)
	ours = "ours-a"
	var out strings.Builder
	require.NoError(t, run(strings.NewReader(`BenchmarkGet/impl=ours-a/round=1 	1	 30 ns/op
BenchmarkGet/impl=ours-b/round=1 	1	 10 ns/op
BenchmarkGet/impl=slow/round=1 	1	 60 ns/op
`), &out, false))
	require.Contains(t, out.String(), "**0.50** (slow)")
}
