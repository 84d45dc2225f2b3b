package shard_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/sysblocks/sysblocks/shard"
)

// orders are databases of three shards: how much each order was for, the highest first.
var orders = map[shard.ID][]int{
	"eu": {90, 40, 30, 20},
	"us": {80, 70, 10},
	"ap": {60, 50},
}

// top is what would be SELECT … ORDER BY amount DESC LIMIT n. The shard down does not answer.
func top(n int) func(context.Context, shard.ID) ([]int, error) {
	return func(ctx context.Context, id shard.ID) ([]int, error) {
		if id == "down" {
			return nil, errors.New("connection refused")
		}
		return orders[id][:min(n, len(orders[id]))], nil
	}
}

func ExampleGather() {
	replies, err := shard.Gather(context.Background(), []shard.ID{"ap", "eu", "us"}, shard.Policy{Concurrency: 2, PerShard: time.Second},
		func(ctx context.Context, id shard.ID) (int, error) {
			return len(orders[id]), nil // SELECT count(*)
		})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, r := range replies {
		fmt.Println(r.Shard, r.Value)
	}
	// Output:
	// ap 2
	// eu 4
	// us 3
}

// What some shards have answered may be of use without the others. It never looks as if it were all.
func ExamplePartialError() {
	replies, err := shard.Gather(context.Background(), []shard.ID{"ap", "down", "eu"}, shard.Policy{MinSuccess: 2}, top(1))
	var partial *shard.PartialError
	switch {
	case errors.As(err, &partial) && partial.Enough:
		for _, failed := range partial.Failed {
			fmt.Println("without", failed.Shard)
		}
	case err != nil:
		fmt.Println(err)
		return
	}
	fmt.Println(replies)

	_, err = shard.Gather(context.Background(), []shard.ID{"ap", "down", "eu"}, shard.Policy{}, top(1))
	fmt.Println(err)
	// Output:
	// without down
	// [{ap [60]} {eu [90]}]
	// shard: 1 of 3 shards have failed: "down": connection refused
}

// To drop the error is to take a part for the whole: the sum lacks a shard, and nobody is told.
func ExampleGather_mistake() {
	replies, _ := shard.Gather(context.Background(), []shard.ID{"ap", "down", "us"}, shard.Policy{}, top(10)) // wrong
	sum := 0
	for _, r := range replies {
		for _, amount := range r.Value {
			sum += amount
		}
	}
	fmt.Println(sum)
	// Output: 270
}

// The first shard that has the key ends the search: the calls of the others are cancelled, and
// waited for.
func ExampleStream() {
	ask := func(ctx context.Context, id shard.ID) (bool, error) {
		if id == "us" {
			return true, nil
		}
		<-ctx.Done() // a long search
		return false, ctx.Err()
	}
	for reply, err := range shard.Stream(context.Background(), []shard.ID{"ap", "eu", "us"}, shard.Policy{}, ask) {
		if err != nil {
			fmt.Println(err)
			return
		}
		if reply.Value {
			fmt.Println("found in", reply.Shard)
			break
		}
	}
	// Output: found in us
}

// The loop may go on without a shard that fails; the last pair tells what is missing.
func ExampleStream_partial() {
	sum := 0
	for reply, err := range shard.Stream(context.Background(), []shard.ID{"ap", "down", "us"}, shard.Policy{MinSuccess: 1}, top(10)) {
		switch err := err.(type) {
		case nil:
			for _, amount := range reply.Value {
				sum += amount
			}
		case *shard.Error: // the PartialError has it, too
		case *shard.PartialError:
			fmt.Println(err)
		default:
			fmt.Println("not asked:", err)
		}
	}
	fmt.Println("at least", sum)
	// Output:
	// shard: 1 of 3 shards have failed: "down": connection refused
	// at least 270
}

// The three highest of all are among the three highest of each shard: so no shard need send more,
// and of those the merge takes no more than it needs.
func ExampleMergeSorted() {
	replies, err := shard.Gather(context.Background(), []shard.ID{"ap", "eu", "us"}, shard.Policy{}, top(3))
	if err != nil {
		fmt.Println(err)
		return
	}
	var seqs []iter.Seq2[int, error]
	for _, r := range replies {
		seqs = append(seqs, shard.Values(r.Value))
	}
	descending := func(a, b int) int { return cmp.Compare(b, a) }
	for amount, err := range shard.Limit(3, shard.MergeSorted(descending, seqs...)) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(amount)
	}
	// Output:
	// 90
	// 80
	// 70
}

// A shard that sorts by another rule, such as another collation, is found out.
func ExampleMergeSorted_unsorted() {
	for name, err := range shard.MergeSorted(cmp.Compare[string], shard.Values([]string{"Ada", "bob", "Zoe"}), shard.Values([]string{"Eve"})) {
		fmt.Println(name, err)
	}
	// Output:
	// Ada <nil>
	// Eve <nil>
	// bob <nil>
	//  shard: input 0 of 2: not sorted
}

func ExampleLimit() {
	numbers := func(yield func(int, error) bool) {
		for n := 0; yield(n, nil); n++ {
		}
	}
	for n := range shard.Limit(3, numbers) {
		fmt.Println(n)
	}
	// Output:
	// 0
	// 1
	// 2
}
