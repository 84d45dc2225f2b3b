// Command ratio reads the output of go test -bench and prints, for each workload, the median
// time of each implementation, and ours in proportion to the fastest of the others.
//
//	go test -bench=. -rounds=9 . | go run ./ratio
//
// With -each it prints our proportion to every other one, too, behind its time. With -ours it takes
// another one of our implementations than sysblocks; those whose names begin with ours- are not
// among the others.
//
// It expects names of the form Name/…/impl=NAME/round=N. The proportion is the median of
// those of the single rounds, for what disturbs one round disturbs all that take part in it.
package main

import (
	"cmp"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"golang.org/x/perf/benchfmt"
)

// ours is the implementation that is compared with the others.
var ours = "sysblocks"

func main() {
	flag.StringVar(&ours, "ours", ours, "the implementation that is compared with the others")
	each := flag.Bool("each", false, "print our proportion to every other implementation")
	flag.Parse()
	if err := run(os.Stdin, os.Stdout, *each); err != nil {
		fmt.Fprintln(os.Stderr, "ratio:", err)
		os.Exit(1)
	}
}

// isOurs reports whether impl is not among the others.
func isOurs(impl string) bool { return impl == ours || strings.HasPrefix(impl, "ours-") }

// A workload is one comparison: values by implementation and round.
type workload struct {
	name, unit string
	impls      []string // in the order of the input
	values     map[string]map[string]float64
}

func run(in io.Reader, out io.Writer, each bool) error {
	workloads, err := read(in)
	if err != nil {
		return err
	}
	if len(workloads) == 0 {
		return fmt.Errorf("the input has no benchmark with impl= in its name")
	}
	var names []string
	for _, w := range workloads {
		for _, impl := range w.impls {
			if !slices.Contains(names, impl) {
				names = append(names, impl)
			}
		}
	}
	// What all workloads have comes first, and ours before the others.
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(score(a), score(b)) })

	t := tabwriter.NewWriter(out, 0, 0, 1, ' ', 0)
	fmt.Fprintf(t, "| workload\t| unit\t| %s\t| to the best other\t|\n", strings.Join(names, "\t| "))
	fmt.Fprintf(t, "|---\t|---\t|%s---\t|\n", strings.Repeat("---:\t|", len(names)))
	for _, w := range workloads {
		fmt.Fprintf(t, "| %s\t| %s\t", w.name, w.unit)
		for _, impl := range names {
			if v, ok := w.median(impl); ok {
				fmt.Fprintf(t, "| %.1f", v)
				if each && !isOurs(impl) {
					fmt.Fprintf(t, " (%.2f)", w.ratioTo(impl))
				}
				fmt.Fprint(t, "\t")
			} else {
				fmt.Fprint(t, "| \t")
			}
		}
		best, ratio := w.ratio()
		fmt.Fprintf(t, "| **%.2f** (%s)\t|\n", ratio, best)
	}
	return t.Flush()
}

func score(impl string) int {
	if impl == ours {
		return 0
	}
	return 1
}

func read(in io.Reader) ([]*workload, error) {
	var list []*workload
	byName := map[string]*workload{}
	r := benchfmt.NewReader(in, "input")
	for r.Scan() {
		result, ok := r.Result().(*benchfmt.Result)
		if !ok {
			continue // a line of another kind
		}
		base, parts := result.Name.Parts()
		name, impl, round := string(base), "", "1"
		for _, p := range parts {
			switch k, v, _ := strings.Cut(strings.TrimPrefix(string(p), "/"), "="); {
			case k == "impl":
				impl = v
			case k == "round":
				round = v
			case strings.HasPrefix(k, "-"):
				name += " " + strings.TrimPrefix(k, "-") + " CPUs"
			default:
				name += " " + v
			}
		}
		unit := "ns/op"
		value, ok := result.Value("B/entry")
		if ok {
			unit = "B/entry"
		} else {
			value, ok = result.Value("sec/op")
			value *= 1e9
		}
		if impl == "" || !ok {
			continue
		}
		w := byName[name]
		if w == nil {
			w = &workload{name: name, unit: unit, values: map[string]map[string]float64{}}
			byName[name] = w
			list = append(list, w)
		}
		if w.values[impl] == nil {
			w.values[impl] = map[string]float64{}
			w.impls = append(w.impls, impl)
		}
		w.values[impl][round] = value
	}
	return list, r.Err()
}

func (w *workload) median(impl string) (float64, bool) {
	var list []float64
	for _, v := range w.values[impl] {
		list = append(list, v)
	}
	return median(list)
}

// ratio returns the other implementation with the lowest median, and the median over the
// rounds of our value divided by its.
func (w *workload) ratio() (best string, ratio float64) {
	lowest := 0.0
	for _, impl := range w.impls {
		if v, ok := w.median(impl); ok && !isOurs(impl) && (best == "" || v < lowest) {
			best, lowest = impl, v
		}
	}
	return best, w.ratioTo(best)
}

// ratioTo returns the median over the rounds of our value divided by that of impl.
func (w *workload) ratioTo(impl string) float64 {
	var list []float64
	for round, v := range w.values[ours] {
		if other := w.values[impl][round]; other > 0 {
			list = append(list, v/other)
		}
	}
	ratio, _ := median(list)
	return ratio
}

func median(list []float64) (float64, bool) {
	if len(list) == 0 {
		return 0, false
	}
	slices.Sort(list)
	middle := len(list) / 2
	if len(list)%2 == 1 {
		return list[middle], true
	}
	return (list[middle-1] + list[middle]) / 2, true
}
