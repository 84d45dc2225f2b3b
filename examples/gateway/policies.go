package main

import (
	"maps"
	"slices"

	"github.com/sysblocks/sysblocks/consistenthash"
	"github.com/sysblocks/sysblocks/loadbalance"
)

const defaultPolicy = "power_of_two_choices"

// policies are those of package loadbalance, by the names that they have in the config.
var policies map[string]func(p *policyConfig) loadbalance.Policy

func init() { // not where it is declared, as prefer_zone looks into it
	plain := func(f func() loadbalance.Policy) func(*policyConfig) loadbalance.Policy {
		return func(*policyConfig) loadbalance.Policy { return f() }
	}
	policies = map[string]func(*policyConfig) loadbalance.Policy{
		"power_of_two_choices":        plain(loadbalance.PowerOfTwoChoices),
		"least_response_time":         plain(loadbalance.LeastResponseTime),
		"least_connections":           plain(loadbalance.LeastConnections),
		"weighted_least_connections":  plain(loadbalance.WeightedLeastConnections),
		"round_robin":                 plain(loadbalance.RoundRobin),
		"smooth_weighted_round_robin": plain(loadbalance.SmoothWeightedRoundRobin),
		"random":                      plain(loadbalance.Random),
		"weighted_random":             plain(loadbalance.WeightedRandom),
		"ip_hash":                     plain(loadbalance.IPHash),
		"consistent_hash":             consistentHash,
		"prefer_zone": func(p *policyConfig) loadbalance.Policy {
			if p.Inner == nil {
				return loadbalance.PreferZone(nil)
			}
			return loadbalance.PreferZone(newPolicy(p.Inner))
		},
	}
}

func newPolicy(p *policyConfig) loadbalance.Policy {
	if p == nil {
		return policies[defaultPolicy](nil)
	}
	return policies[p.Name](p)
}

// usesHash reports whether it matters to the policy what a request's hash is.
func (p *policyConfig) usesHash() bool {
	return p != nil && (p.Name == "ip_hash" || p.Name == "consistent_hash" || p.Inner.usesHash())
}

// algorithms are those of package consistenthash.
var algorithms = map[string]func() consistenthash.Algorithm{
	"slots": func() consistenthash.Algorithm { return consistenthash.Slots(consistenthash.SlotsConfig{}) },
	"ring":  func() consistenthash.Algorithm { return consistenthash.Ring(consistenthash.RingConfig{}) },
}

// consistentHash is where the two packages meet, which know nothing of each other: what one of them
// builds is what the other asks for.
func consistentHash(p *policyConfig) loadbalance.Policy {
	name := p.Algorithm
	if name == "" {
		name = "slots"
	}
	algorithm := algorithms[name]()
	return loadbalance.ConsistentHash(func(ids []string, weights []uint32) (loadbalance.Locator, error) {
		nodes := make([]consistenthash.Node, len(ids))
		for i, id := range ids {
			nodes[i] = consistenthash.Node{ID: id, Weight: weights[i]}
		}
		return algorithm.Build(nodes)
	}, p.Bound)
}

func policyNames() []string    { return slices.Sorted(maps.Keys(policies)) }
func algorithmNames() []string { return slices.Sorted(maps.Keys(algorithms)) }
