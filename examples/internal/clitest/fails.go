package clitest

import "testing"

// A recorder is a test that may fail.
type recorder struct {
	testing.TB
	failed bool
}

func (r *recorder) Errorf(string, ...any) { r.failed = true }

func (r *recorder) FailNow() { panic(r) }

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	r.FailNow()
}

// Fails reports whether f fails the test that it is given, as helpers of tests are to be tested. f must do so in its own
// goroutine.
func Fails(t *testing.T, f func(testing.TB)) (failed bool) {
	t.Helper()
	r := &recorder{TB: t}
	defer func() {
		if x := recover(); x != nil && x != r {
			panic(x)
		}
		failed = r.failed
	}()
	f(r)
	return false
}
