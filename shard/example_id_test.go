package shard_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/sysblocks/sysblocks/shard"
)

// Issue an ID for the shard with the number 7, and find the way back to it.
func ExampleIDGen() {
	ids, err := shard.NewIDGen(shard.IDConfig{Shard: 7})
	if err != nil {
		fmt.Println(err)
		return
	}
	id, err := ids.Next(context.Background())
	if err != nil {
		fmt.Println(err)
		return
	}

	// Who only routes needs no generator.
	shards, err := shard.NewIDLocator(shard.IDLayout{}, map[uint32]shard.ID{3: "east", 7: "west"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(shards.Locate(id).Shard)
	// Output: west
}

func ExampleIDGen_Next() {
	ids, err := shard.NewIDGen(shard.IDConfig{})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	a, err := ids.Next(ctx)
	if err != nil {
		fmt.Println(err)
	}
	b, err := ids.Next(ctx)
	switch {
	case errors.Is(err, shard.ErrClockRegression):
		fmt.Println("alert: the clock is wrong, or was:", err)
	case err != nil:
		fmt.Println(err)
	}
	fmt.Println(a > 0, b > a)
	// Output: true true
}

// The IDs of all rows of an insert.
func ExampleIDGen_NextN() {
	ids, err := shard.NewIDGen(shard.IDConfig{})
	if err != nil {
		fmt.Println(err)
		return
	}
	rows := make([]int64, 1000)
	n, err := ids.NextN(context.Background(), rows)
	fmt.Println(n, err, rows[0] < rows[999])
	// Output: 1000 <nil> true
}

func ExampleIDLayout_Parse() {
	p, err := shard.IDLayout{}.Parse(251234567890123456)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(p.Time.Format(time.RFC3339Nano), p.Shard, p.Sequence)
	_, err = shard.IDLayout{}.Parse(-5)
	fmt.Println(err)
	// Output:
	// 2026-11-25T06:36:28.697Z 2286 704
	// shard: an ID must be at least 0, got -5
}

func ExampleIDLayout_ShardOf() {
	n, err := shard.IDLayout{}.ShardOf(251234567890123456)
	fmt.Println(n, err)
	// Output: 2286 <nil>
}

// The rows of a day are a range of their IDs.
func ExampleIDLayout_FirstAt() {
	day := time.Date(2026, time.November, 10, 0, 0, 0, 0, time.UTC)
	from, err := shard.IDLayout{}.FirstAt(day)
	if err != nil {
		fmt.Println(err)
		return
	}
	to, err := shard.IDLayout{}.FirstAt(day.AddDate(0, 0, 1))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("SELECT * FROM orders WHERE id >= %d AND id < %d\n", from, to)
	// Output: SELECT * FROM orders WHERE id >= 245698972876800000 AND id < 246061360742400000
}

func ExampleIDLayout_Validate() {
	fmt.Println(shard.IDLayout{TimeBits: 41, ShardBits: 5, SequenceBits: 7}.Validate()) // 53 bits, for JavaScript
	fmt.Println(shard.IDLayout{TimeBits: 42, ShardBits: 12, SequenceBits: 10}.Validate())
	// Output:
	// <nil>
	// shard: TimeBits, ShardBits and SequenceBits must be at most 63 together, got 42 + 12 + 10
}

func ExampleIDLocator_Route() {
	shards, err := shard.NewIDLocator(shard.IDLayout{}, map[uint32]shard.ID{3: "east", 7: "west"})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = shards.Route(context.Background(), 251234567890123456)
	fmt.Println(errors.Is(err, shard.ErrNoShard), err)
	// Output: true shard: ID 251234567890123456 has the shard number 2286: no shard is responsible
}

// A generator that begins after the IDs of the process before it, even if the clock was set back.
func ExampleFileMark() {
	dir, err := os.MkdirTemp("", "mark")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	last := int64(0)
	for range 3 { // each time as if the process was killed and restarted
		ids, err := shard.NewIDGen(shard.IDConfig{Shard: 7, Mark: shard.FileMark(filepath.Join(dir, "shard-7"))})
		if err != nil {
			fmt.Println(err)
			return
		}
		id, err := ids.Next(context.Background())
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(id > last)
		last = id
	}
	// Output:
	// true
	// true
	// true
}

// JavaScript has no integers beyond 2^53. What JSON.parse makes of such a number is another ID, and
// nobody notices. Send a string.
func ExampleIDLayout_mistake() {
	const id = 251234567890123457
	var javascript float64
	if err := json.Unmarshal([]byte("251234567890123457"), &javascript); err != nil {
		fmt.Println(err)
	}
	fmt.Println(int64(javascript) == id, int64(javascript))

	text, err := json.Marshal(struct {
		ID int64 `json:"id,string"`
	}{id})
	fmt.Println(string(text), err)
	fmt.Println(shard.Base62(id))
	// Output:
	// false 251234567890123456
	// {"id":"251234567890123457"} <nil>
	// IYejSEwySv
}

func ExampleBase62() {
	fmt.Println(shard.Base62(12345), shard.Base62(3_521_614_606_207))
	// Output: 3D7 zzzzzzz
}

func ExampleAppendBase62() {
	b := []byte("https://sho.rt/")
	fmt.Println(string(shard.AppendBase62(b, 12345)))
	// Output: https://sho.rt/3D7
}

// Keys that sort as the numbers do.
func ExampleBase62Fixed() {
	fmt.Println(shard.Base62Fixed(61), shard.Base62Fixed(62))
	n, err := shard.ParseBase62Fixed("00000000010")
	fmt.Println(n, err)
	// Output:
	// 0000000000z 00000000010
	// 62 <nil>
}

func ExampleParseBase62() {
	fmt.Println(shard.ParseBase62("3D7"))
	for _, s := range []string{"3D-7", "03D7", "zzzzzzzzzzz"} {
		_, err := shard.ParseBase62(s)
		fmt.Println(err)
	}
	// Output:
	// 12345 <nil>
	// shard: Base62 must have the characters 0-9, A-Z and a-z only, got '-' at byte 2 of "3D-7"
	// shard: Base62 must not have leading zeros, got "03D7"
	// shard: Base62 must be at most LygHa16AHYF, which is 2^64-1, got "zzzzzzzzzzz"
}
