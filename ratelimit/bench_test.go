package ratelimit

import (
	"testing"
	"time"
)

// BenchmarkClock is what reading the clock takes, without which there is no limiter.
func BenchmarkClock(b *testing.B) {
	base := time.Now()
	for b.Loop() {
		time.Since(base)
	}
}

func BenchmarkBucket(b *testing.B) {
	for name, l := range map[string]Limit{"allowed": PerSecond(1e8), "refused": PerHour(1)} {
		x := newBucket(b, l)
		b.Run("op=Allow/case="+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				x.Allow()
			}
		})
		b.Run("op=AllowParallel/case="+name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					x.Allow()
				}
			})
		})
		b.Run("op=Take/case="+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				x.Take(1)
			}
		})
	}
}

func BenchmarkLimiters(b *testing.B) {
	l := PerSecond(1e6)
	multi, err := All(l, PerHour(1e9))
	if err != nil {
		b.Fatal(err)
	}
	fixed, err := NewFixedWindow(l)
	if err != nil {
		b.Fatal(err)
	}
	log, err := NewSlidingLog(l)
	if err != nil {
		b.Fatal(err)
	}
	counter, err := NewSlidingCounter(l)
	if err != nil {
		b.Fatal(err)
	}
	for name, x := range map[string]Limiter{"Multi": multi, "FixedWindow": fixed, "SlidingLog": log, "SlidingCounter": counter} {
		b.Run("impl="+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				x.Take(1)
			}
		})
	}
}
