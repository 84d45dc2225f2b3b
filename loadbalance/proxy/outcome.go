package proxy

import (
	"net/http"

	"github.com/sysblocks/sysblocks/loadbalance"
)

// Classify returns the Outcome of an HTTP request.
func Classify(resp *http.Response, err error) loadbalance.Outcome {
	return loadbalance.OutcomeOf(err)
}
