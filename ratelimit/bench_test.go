package ratelimit

import (
	"fmt"
	"strconv"
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

// BenchmarkKeyed takes from a million keys in random order, and from new ones.
func BenchmarkKeyed(b *testing.B) {
	n := 1_000_000
	if testing.Short() {
		n = 10_000
	}
	keys := make([]string, 2*n)
	for i := range keys {
		keys[i] = "user-" + strconv.Itoa(i*7919%len(keys))
	}
	for _, hashed := range []bool{true, false} {
		x := newKeyed[string](b, PerHour(1e6), KeyedConfig{MaxKeys: n, HashKeys: hashed})
		name := fmt.Sprintf("stored=%v", !hashed)
		b.Run(name+"/keys=new", func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				x.Take(keys[i%len(keys)], 1)
			}
		})
		x.Clear()
		for _, k := range keys[:n] {
			x.Take(k, 1)
		}
		b.Run(name+"/keys=known", func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				x.Take(keys[i%n], 1)
			}
		})
		b.Run(name+"/keys=one", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				x.Take(keys[0], 1)
			}
		})
		b.Run(name+"/keys=oneParallel", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					x.Take(keys[0], 1)
				}
			})
		})
	}
}
