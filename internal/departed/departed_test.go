package departed

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReport(t *testing.T) {
	var none *List[string, int, rune]
	none.Add("a", 1, 'x')

	var l List[string, int, rune]
	for range 3 {
		l.Add("a", 1, 'x')
		l.Add("b", 2, 'y')
		var got []item[string, int, rune]
		l.Report(func(k string, v int, c rune) { got = append(got, item[string, int, rune]{k, v, c}) })
		require.Equal(t, []item[string, int, rune]{{"a", 1, 'x'}, {"b", 2, 'y'}}, got)
		l.Report(func(string, int, rune) { t.Error("the list is empty") })
		require.Equal(t, item[string, int, rune]{}, l.items[:1][0], "nothing is kept alive")
	}
}

func TestReportPanics(t *testing.T) {
	var l List[int, int, int]
	for i := range 10 * keep {
		l.Add(i, i, i)
	}
	calls := 0
	require.PanicsWithValue(t, 3, func() {
		l.Report(func(k, _, _ int) {
			require.Equal(t, calls, k)
			calls++
			if k%2 == 1 && k > 2 {
				panic(k)
			}
		})
	})
	require.Equal(t, 10*keep, calls)
	require.Nil(t, l.items, "the memory of a long list is given back")
}

func TestReportGoexits(t *testing.T) {
	var l List[int, int, int]
	for i := range 10 {
		l.Add(i, i, i)
	}
	calls := 0
	done := make(chan bool)
	go func() {
		defer close(done)
		l.Report(func(k, _, _ int) {
			calls++
			switch k % 3 {
			case 1:
				runtime.Goexit()
			case 2:
				panic(k)
			}
		})
	}()
	<-done
	require.Equal(t, 10, calls)
}

func TestSpare(t *testing.T) {
	var s Spare[int, int, int]
	a := s.Take()
	b := s.Take()
	require.NotSame(t, a, b, "both are in use")
	a.Add(1, 2, 3)
	calls := 0
	s.Report(a, func(k, v, c int) {
		calls++
		require.Equal(t, []int{1, 2, 3}, []int{k, v, c})
		require.NotSame(t, a, s.Take(), "it is in use still")
	})
	require.Equal(t, 1, calls)
	require.Same(t, a, s.Take(), "it was kept")
	require.NotSame(t, a, s.Take())
}
