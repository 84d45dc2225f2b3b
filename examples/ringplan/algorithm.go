package main

import (
	"flag"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/sysblocks/sysblocks/consistenthash"
)

// algorithms are the names of what the package has.
var algorithms = []string{"slots", "ring", "rendezvous", "maglev", "ketama"}

// parameterOf says which algorithm a parameter is for.
var parameterOf = map[string]string{
	"slots":         "slots",
	"load-factor":   "slots",
	"virtual-nodes": "ring",
	"weight-unit":   "ring",
	"size":          "maglev",
}

// An algorithm is one of them, with the parameters of all. 0 is the package's default.
type algorithm struct {
	name         string
	slots        int
	loadFactor   float64
	virtualNodes int
	weightUnit   uint32
	size         int
}

// parameters makes flags of them.
func (a *algorithm) parameters(flags *flag.FlagSet) {
	flags.IntVar(&a.slots, "slots", a.slots, "slots: `N` of them, a power of two (default 65536)")
	flags.Float64Var(&a.loadFactor, "load-factor", a.loadFactor, "slots: a node has at most its fair share times `F` (default 1.05)")
	flags.IntVar(&a.virtualNodes, "virtual-nodes", a.virtualNodes, "ring: a node of weight 1 has `N` points (default 160)")
	flags.Func("weight-unit", "ring: not a node of weight 1, but one of this `WEIGHT` has them", func(v string) error {
		unit, err := strconv.ParseUint(v, 10, 32)
		if err != nil || unit == 0 {
			return fmt.Errorf("must be from 1 to %d", uint32(1<<32-1))
		}
		a.weightUnit = uint32(unit)
		return nil
	})
	flags.IntVar(&a.size, "size", a.size, "maglev: the table has `N` entries, a prime (default 65537)")
}

func checkName(name string) error {
	if !slices.Contains(algorithms, name) {
		return fmt.Errorf("there is no algorithm %q, only %s", name, strings.Join(algorithms, ", "))
	}
	return nil
}

// parseAlgorithm reads NAME[,PARAMETER=VALUE]...; what it does not say is as in base.
func parseAlgorithm(text string, base algorithm) (algorithm, error) {
	if text == "" {
		return base, nil
	}
	a := base
	name, rest, more := strings.Cut(text, ",")
	if err := checkName(name); err != nil {
		return a, err
	}
	a.name = name
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	a.parameters(flags)
	for more {
		var item string
		item, rest, more = strings.Cut(rest, ",")
		parameter, value, _ := strings.Cut(item, "=")
		if parameterOf[parameter] != name {
			return a, fmt.Errorf("%s has no parameter %q", name, parameter)
		}
		if err := flags.Set(parameter, value); err != nil {
			return a, fmt.Errorf("invalid value %q for %s: %w", value, parameter, err)
		}
	}
	return a, nil
}

// ranged reports whether keys lie in ranges.
func (a algorithm) ranged() bool { return a.name != "rendezvous" }

// make returns what the package calls an Algorithm.
func (a algorithm) make() consistenthash.Algorithm {
	switch a.name {
	case "ring":
		return consistenthash.Ring(consistenthash.RingConfig{VirtualNodes: a.virtualNodes, WeightUnit: a.weightUnit})
	case "rendezvous":
		return consistenthash.Rendezvous()
	case "maglev":
		return consistenthash.Maglev(a.size)
	case "ketama":
		return consistenthash.Ketama()
	}
	return consistenthash.Slots(consistenthash.SlotsConfig{Slots: a.slots, LoadFactor: a.loadFactor})
}
