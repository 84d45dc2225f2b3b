// Package bloom provides filters: sets that take a few bits a key, and answer "is it there?" with
// "certainly not" or "probably".
//
// Use one in front of what is slow: a file, a table, a service that would have to be asked for
// keys that mostly do not exist; or to drop what was seen before, if a new one in a hundred may
// be dropped by mistake. Do not use one where a wrong "yes" costs more than the look-up it saves,
// where most keys do exist, or where the keys fit into a map.
//
// # Which filter
//
//	                bits a key   ns for a       FPR          delete   grow   concurrent   stored
//	                at 1 %       hit    miss
//	Blocked         10.1          7      6      1e-8 and up  no       no     no           yes
//	Concurrent      10.1         10      9      1e-8 and up  no       no     yes          yes
//	  SingleWinner  12.9          9      9      1e-4 and up  no       no     yes          yes
//	SplitBlock      10.5         12      9      1e-7 and up  no       no     no           yes; Parquet
//	Classic          9.6         50     43      any          no       no     no           yes; bits-and-blooms
//	Scalable        12 to 40     10 …    9 …    1e-6 and up  no       yes    yes          yes
//	Rotating        13           19     26      1e-7 and up  by age   no     yes          yes
//	Cuckoo          10.6         11     11      2e-9 and up  yes      no     no           yes
//	Fuse8            9.0          8      8      0.4 %        no       no     read-only    yes
//	Fuse16          18.1          8      8      0.0015 %     no       no     read-only    yes
//	Guard           13           11     16      1e-5 and up  Rebuild  yes    yes          no
//
// Blocked is the default. Take Concurrent when several goroutines use it while one adds; Scalable
// when nobody knows how many keys will come; Rotating to find duplicates in a stream; Cuckoo if keys
// are deleted; a Fuse filter if all keys are known when it is made, and for rates below 1e-4, where
// they and Classic are much smaller than the others; SplitBlock and Classic to share files with
// other programs. Guard is a filter in front of a store, with what it takes to keep the two in step.
//
// The times are for 64-bit integers in a filter of 10,000 keys, one look-up after the other, of keys
// that are all there or all not (BenchmarkKinds, on a server's CPU of 2023). "No" under concurrent
// means: Contains by many goroutines, while nobody changes the filter. The figures for Rotating
// are with three Generations, and the current one. A Scalable takes 3 ns more for each
// further stage; its bits a key depend on how full the newest is.
//
// # What can be relied on
//
// A key that was added is found: no filter forgets one, but a Rotating when its time has come and
// a Cuckoo when a key was deleted that was never added. The share of false positives is at
// most Config.FPR with Config.N keys, in the mean over seeds: sizes are computed from the
// distribution of the keys over the blocks, not by the textbook formula, which is for a filter
// without blocks. (Classic has that formula, as bits-and-blooms does, and is somewhat above.)
//
// No operation on a key allocates, but when a Scalable grows or a Rotating begins a new
// generation. Nothing runs in the background, and there is nothing to close.
//
// All but the Fuse filters can be emptied, by Reset. Union, Intersect and EstimatedCount are for
// Blocked, Concurrent, SplitBlock and Classic; Scalable, Cuckoo and Fuse know their Len.
//
// # Stored filters
//
// WriteTo and MarshalBinary write a format of this package's own, with a version, the hash and its
// seed, and checksums. Reading checks everything before it changes anything: a damaged file, one
// that ends too early, one that claims to be larger than Config.MaxBytes, or one that was made
// with another hash or for other keys is an error, and the filter is as it was. ReadFrom reads one
// filter of a stream, and UnmarshalBinary a whole file, where what follows is an error. Classic and
// SplitBlock also Export and Import the formats of others, which have no checksums.
//
// # Coming from bits-and-blooms
//
//	github.com/bits-and-blooms/bloom/v3          here
//	NewWithEstimates(n, p)                       NewClassic(Config[[]byte]{N: n, FPR: p}): the same bits
//	                                             NewBlocked(Config[string]{N: n, FPR: p}): faster
//	f.Add(b), f.AddString(s)                     f.Add(k), which reports whether k was new
//	f.Test(b), f.TestString(s)                   f.Contains(k)
//	f.TestOrAdd(b)                               !f.Add(k)
//	f.Merge(g)                                   f.Union(g)
//	f.Copy()                                     f.Clone()
//	f.ClearAll()                                 f.Reset()
//	f.ApproximatedSize()                         f.EstimatedCount()
//	EstimateFalsePositiveRate(m, k, n)           f.EstimatedFPR(), from the bits
//	f.WriteTo(w), f.ReadFrom(r)                  f.Export(w), f.Import(r) of Classic: the same bytes
//	                                             f.WriteTo(w), f.ReadFrom(r): with checksums
//	f.BitSet(), f.Cap(), f.K()                   f.Unwrap() of Classic has them
//	a mutex around it                            Concurrent
//
// A Classic hashes integers as 8 bytes, little-endian. Who has added numbers as 4 bytes, or
// big-endian, reads such a filter with keys of type []byte, or [4]byte.
package bloom
