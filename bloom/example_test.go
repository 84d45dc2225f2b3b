package bloom_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"log"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sysblocks/sysblocks/bloom"
)

func Example() {
	f, err := bloom.NewBlocked(bloom.Config[string]{N: 1_000_000, FPR: 0.01})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(f.Add("apple"), f.Add("apple"))
	fmt.Println(f.Contains("apple"), f.Contains("pear"))
	fmt.Printf("%.1f bits a key\n", float64(f.Bits())/1_000_000)
	// Output:
	// true false
	// true false
	// 10.1 bits a key
}

// A yes is not certain. What must be certain is asked of the store itself.
func Example_mistake() {
	f, _ := bloom.NewBlocked(bloom.Config[int]{N: 1000, FPR: 0.01})
	for i := range 1000 {
		f.Add(i)
	}
	wrong := 0
	for i := 1000; i < 101_000; i++ {
		if f.Contains(i) { // not: "then it was added"
			wrong++
		}
	}
	fmt.Println(wrong > 100, wrong < 1500)
	// Output: true true
}

func ExampleBlocked_AddHash() {
	// One hash for two filters.
	h := bloom.XXH[string](0)
	c := bloom.Config[string]{N: 1000, FPR: 0.001, Hash: h}
	today, _ := bloom.NewBlocked(c)
	ever, _ := bloom.NewBlocked(c)
	k := h.Hash("apple")
	fmt.Println(today.AddHash(k), ever.AddHash(k), ever.ContainsHash(k))
	// Output: true true true
}

func ExampleBlocked_Union() {
	c := bloom.Config[string]{N: 1000, FPR: 0.001}
	a, _ := bloom.NewBlocked(c)
	b, _ := bloom.NewBlocked(c)
	a.Add("apple")
	b.Add("pear")
	fmt.Println(a.Union(b), a.Contains("apple"), a.Contains("pear"))
	fmt.Println(a.Intersect(b), a.Contains("apple"), a.Contains("pear"))
	// Output:
	// <nil> true true
	// <nil> false true
}

func ExampleBlocked_WriteTo() {
	f, _ := bloom.NewBlocked(bloom.Config[string]{N: 1000, FPR: 0.01})
	f.Add("apple")
	var file bytes.Buffer
	if _, err := f.WriteTo(&file); err != nil {
		log.Fatal(err)
	}

	var g bloom.Blocked[string]
	if _, err := g.ReadFrom(bytes.NewReader(file.Bytes())); err != nil {
		log.Fatal(err)
	}
	fmt.Println(g.Contains("apple"))

	file.Bytes()[200]++ // one bit falls over
	_, err := g.ReadFrom(&file)
	fmt.Println(err)
	fmt.Println(errors.Is(err, bloom.ErrCorrupt), g.Contains("apple"))
	// Output:
	// true
	// bloom: the checksum of the payload is wrong: not a stored filter, or damaged
	// true true
}

func ExampleBlocked_EstimatedCount() {
	f, _ := bloom.NewBlocked(bloom.Config[int]{N: 10_000, FPR: 0.01})
	for i := range 10_000 {
		f.Add(i)
	}
	n, fpr := f.EstimatedCount(), f.EstimatedFPR()
	fmt.Println(n > 9_800 && n < 10_200, fpr > 0 && fpr < 0.011, f.FillRatio() < 0.6)
	// Output: true true true
}

func ExampleMapHash() {
	// Keys of any comparable type, in a process that stores nothing.
	type point struct{ X, Y int }
	f, _ := bloom.NewConcurrent(bloom.Config[point]{N: 1000, FPR: 0.001, Hash: bloom.MapHash[point]()})
	f.Add(point{1, 2})
	fmt.Println(f.Contains(point{1, 2}), f.Contains(point{2, 1}))
	_, err := f.MarshalBinary()
	fmt.Println(errors.Is(err, bloom.ErrNotStorable))
	// Output:
	// true false
	// true
}

func ExampleConcurrent() {
	// Something is to be done once for each key, whoever sees it first.
	f, err := bloom.NewConcurrent(bloom.Config[int]{N: 1000, FPR: 0.001, SingleWinner: true})
	if err != nil {
		log.Fatal(err)
	}
	var mu sync.Mutex
	done := map[int]int{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for job := range 5 {
				if f.Add(job) {
					mu.Lock()
					done[job]++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	fmt.Println(done)
	// Output: map[0:1 1:1 2:1 3:1 4:1]
}

func ExampleScalable() {
	f, err := bloom.NewScalable(bloom.Config[int]{N: 1000, FPR: 0.01})
	if err != nil {
		log.Fatal(err)
	}
	for i := range 50_000 {
		f.Add(i)
	}
	fmt.Println(f.Stages(), f.Contains(49_999), f.EstimatedFPR() < 0.01)
	// Output: 6 true true
}

func ExampleRotating() {
	f, err := bloom.NewRotating(bloom.RotatingConfig[string]{
		N:           10_000, // messages in 15 minutes
		FPR:         0.001,
		Window:      time.Hour,
		Generations: 4,
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, id := range []string{"message 1", "message 2", "message 1"} {
		fmt.Println(id, f.Add(id))
	}
	// Output:
	// message 1 true
	// message 2 true
	// message 1 false
}

func ExampleRotating_Rotate() {
	f, _ := bloom.NewRotating(bloom.RotatingConfig[string]{N: 1000, FPR: 0.001, Generations: 1})
	f.Add("a")
	f.Rotate()
	fmt.Println(f.Contains("a"))
	f.Rotate()
	fmt.Println(f.Contains("a"))
	// Output:
	// true
	// false
}

func ExampleCuckoo() {
	f, err := bloom.NewCuckoo(bloom.Config[string]{N: 1000, FPR: 0.001})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(f.Add("apple"), f.Contains("apple"))
	fmt.Println(f.Delete("apple"), f.Contains("apple"))
	fmt.Println(errors.Is(f.Delete("apple"), bloom.ErrAbsent))
	// Output:
	// <nil> true
	// <nil> false
	// true
}

func ExampleBuildFuse8() {
	words := map[string]int{"apple": 1, "pear": 2, "plum": 3}
	f, err := bloom.BuildFuse8(bloom.Config[string]{}, maps.Keys(words))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(f.Contains("apple"), f.Contains("cherry"), f.Len())
	// Output: true false 3
}

func ExampleClassic() {
	f, err := bloom.NewClassic(bloom.Config[string]{N: 1000, FPR: 0.01})
	if err != nil {
		log.Fatal(err)
	}
	f.Add("apple")
	fmt.Println(f.Unwrap().TestString("apple"), f.Unwrap().K())
	// Output: true 7
}

func ExampleClassic_Import() {
	f, _ := bloom.NewClassic(bloom.Config[string]{N: 1000, FPR: 0.01})
	f.Add("apple")
	var file bytes.Buffer // what WriteTo of bits-and-blooms writes
	if _, err := f.Export(&file); err != nil {
		log.Fatal(err)
	}
	g, _ := bloom.NewClassic(bloom.Config[string]{N: 1, FPR: 0.5})
	_, err := g.Import(&file)
	fmt.Println(err, g.Contains("apple"))
	// Output: <nil> true
}

func ExampleSplitBlock_Import() {
	f, err := bloom.NewSplitBlock(bloom.Config[string]{N: 100, FPR: 0.01})
	if err != nil {
		log.Fatal(err)
	}
	f.Add("hello")
	var column bytes.Buffer // what stands in a Parquet file at bloom_filter_offset
	if _, err := f.Export(&column); err != nil {
		log.Fatal(err)
	}
	var g bloom.SplitBlock[string]
	_, err = g.Import(&column)
	fmt.Println(err, g.Contains("hello"), g.Contains("parquet"))
	// Output: <nil> true false
}

func ExampleGuard() {
	ctx := context.Background()
	table := map[string]string{"apple": "red", "pear": "green"}
	load := func(_ context.Context, k string) (string, error) {
		fmt.Println("the table is asked for", k)
		if v, ok := table[k]; ok {
			return v, nil
		}
		return "", bloom.ErrNotFound
	}
	scan := func() iter.Seq2[string, error] { // of a real table, with its errors
		return func(yield func(string, error) bool) {
			for _, k := range slices.Sorted(maps.Keys(table)) {
				if !yield(k, nil) {
					return
				}
			}
		}
	}

	guard, err := bloom.NewGuard[string, string](bloom.Config[string]{N: 1000, FPR: 0.01})
	if err != nil {
		log.Fatal(err)
	}
	if err := guard.Rebuild(ctx, scan()); err != nil {
		log.Fatal(err)
	}
	fmt.Println(guard.Get(ctx, "apple", load))
	fmt.Println(guard.Get(ctx, "cherry", load))
	guard.Admit("cherry") // and then
	table["cherry"] = "black"
	fmt.Println(guard.Get(ctx, "cherry", load))
	// Output:
	// the table is asked for apple
	// red <nil>
	//  not found
	// the table is asked for cherry
	// black <nil>
}
