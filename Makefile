# make test checks everything, in every module. The other targets a person calls:
#
#   make quick   formatting, vet and -short tests, in under two minutes
#   make bench   the benchmarks module     BENCH=regexp COUNT=n BENCHTIME=t
#   make fuzz    every fuzz target         FUZZTIME=30s each
#   make cover   coverage of the root module, by package and in total
#   make servers only the tests that need a real server
#   make rates   the rates of false positives, in full
#
# Nothing here lists modules: whatever go.work uses is checked.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := test
.NOTPARALLEL:
.ONESHELL:

ROOT := $(CURDIR)
MODULES := $(shell GOWORK= go list -m -f '{{.Dir}}')

# Every module is checked with its own go.mod, as its users see it; the workspace would
# hide a requirement that is missing there. The examples alone run in the workspace,
# because that is how the README tells people to run them.
export GOWORK := off
export MODULES

# What the checks need besides Go, as command=debian-packages.
NEEDS := git=git gcc=gcc,libc6-dev
# What the tests with the build tag "servers" need, in the same form; they start their
# servers themselves.
SERVERS := redis-server=redis-server nginx=nginx haproxy=haproxy wrk=wrk chromium=chromium pg_ctlcluster=postgresql nats-server=nats-server

BENCH ?= .
BENCHTIME ?= 1s
COUNT ?= 1
FUZZTIME ?= 30s

# $(call each,COMMAND) runs COMMAND in every module and stops at the first failure; $(call each,COMMAND,MODULES) in those.
each = for m in $(or $(2),$(MODULES)); do echo "== $@ .$${m\#$(ROOT)}"; (cd "$$m" && $(1)); done

.PHONY: test quick setup fmt tidy vet lint unit servers all rates examples bench-once test32 bench fuzz cover

# After each stage stands how long it took.
test:
	@all=$$SECONDS
	for stage in setup fmt tidy vet lint all rates examples bench-once test32; do
		start=$$SECONDS
		$(MAKE) --no-print-directory $$stage
		echo "== $$stage: $$((SECONDS - start)) s"
	done
	echo "== test: $$((SECONDS - all)) s"

quick: fmt vet
	@$(call each,$(ROOT)/scripts/gotest -short -shuffle=on ./...)

setup: # the race detector needs a C compiler
	@scripts/need $(NEEDS)

fmt:
	@bad=$$(gofmt -s -l .); test -z "$$bad" || { echo "not gofmt -s:"; echo "$$bad"; exit 1; }

tidy:
	@$(call each,go mod tidy -diff)

vet:
	@$(call each,go vet -tags=servers ./...)

lint:
	@$(call each,go tool -modfile=$(ROOT)/tools/go.mod staticcheck -tags=servers ./...)

unit:
	@$(call each,$(ROOT)/scripts/gotest -race -shuffle=on ./...)

# The tests of both, unit and servers, in one run, which builds each package's tests once; in the root module, and at the
# same time in the others, whose tests wait a good deal.
all: tests = $(ROOT)/scripts/gotest -race -shuffle=on -tags=servers ./...
all:
	@scripts/need $(SERVERS)
	log=$$(mktemp); trap 'rm -f "$$log"' EXIT
	($(call each,$(tests),$(filter-out $(ROOT),$(MODULES)))) >"$$log" 2>&1 & others=$$!
	($(call each,$(tests),$(ROOT))) & root=$$!
	failed=
	wait $$root || failed=1
	wait $$others || failed=1
	cat "$$log"
	test -z "$$failed"

# What is measured with hundreds of filters, or a million requests, takes the race detector, which finds nothing in
# it, ten minutes; there it runs in a short form.
rates:
	@echo "== $@ . ./examples"
	go test -vet=off -run=FPR ./bloom
	cd examples && go test -run='^TestAbsentCodes$$' ./urlshortener

servers:
	@scripts/need $(SERVERS)
	@scripts/servers

# An example that is run without arguments ends by itself, but for a server: that is run with the arguments that
# stand here.
examples:
	@export GOWORK=; log=$$(mktemp); trap 'rm -f "$$log"' EXIT
	for p in $$(go list -f '{{if eq .Name "main"}}{{.ImportPath}}{{end}}' ./examples/...); do
		case $$p in */urlshortener) args="-load 2s" ;; *) args= ;; esac
		echo "== go run $$p $$args"
		timeout 120 go run "$$p" $$args >"$$log" 2>&1 || { cat "$$log"; echo "FAIL: go run $$p $$args"; exit 1; }
	done

# One iteration proves that a benchmark runs; its figures mean nothing and are not shown.
bench-once:
	@$(call each,$(ROOT)/scripts/gotest -short -run='^$$' -bench=. -benchtime=1x ./... | grep -vE '^(Benchmark|goos:|goarch:|pkg:|cpu:)')

test32:
	@echo "== $@ ."
	scripts/test32

bench:
	cd benchmarks && go test -run='^$$' -bench='$(BENCH)' -benchmem -benchtime=$(BENCHTIME) -count=$(COUNT) -timeout=0 ./...

fuzz:
	@FUZZTIME=$(FUZZTIME) scripts/fuzz

# -coverpkg counts what the tests of one package reach in another, so that internal/ is
# measured through the packages that use it.
cover:
	@d=$$(mktemp -d); trap 'rm -rf "$$d"' EXIT; mkdir "$$d/data"
	packages=$$(go list ./... | grep -v '/internal/repo$$')
	go test -cover -coverpkg="$${packages//$$'\n'/,}" $$packages -args -test.gocoverdir="$$d/data" >"$$d/log" 2>&1 || { cat "$$d/log"; exit 1; }
	go tool covdata percent -i="$$d/data"
	go tool covdata textfmt -i="$$d/data" -o="$$d/profile"
	go tool cover -func="$$d/profile" | tail -n 1
