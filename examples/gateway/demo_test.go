package main

import (
	"context"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/examples/internal/clitest"
)

// Without arguments, all is shown that the README says, and then it ends.
func TestDemo(t *testing.T) {
	code, out, stderr := command(t, "-for", "2s")
	require.Zero(t, code, stderr)
	t.Log("\n" + out)
	assert.Regexp(t, `Status page  http://127\.0\.0\.1:\d+/\n`, out)
	assert.Regexp(t, `\d s  shop-1 is killed\n`, out)
	assert.Regexp(t, `\d s    pool shop: shop-1 is (ejected|down): .+\n`, out)
	assert.Regexp(t, `\d s  shop-1 is started again\n`, out)
	assert.Regexp(t, `account +\d+ +\d+ +\d+ 200, \d+ 401 \(no valid API key\)\n`, out)
	assert.Regexp(t, `search +\d+ +\d+ +\d+ 200, \d+ 429 \(too many\)\n`, out)
	assert.Regexp(t, `legacy +\d+ +\d+ +\d+ 500, \d+ 503 \(the breaker's\)\n`, out)
	assert.Regexp(t, `shop-3 +\d+ +\d+ +\w+ +shop +least_response_time\n`, out)
	assert.Regexp(t, `shop-3 +\d+ +\d+ +\w+ +shop +consistent_hash\(ring, 1\.25\)\n`, out)
	assert.Regexp(t, `Of \d+ requests to /products, 0 failed, while shop-1 was killed and came back\.\n`, out)
	assert.Regexp(t, `"route":"\w+","endpoint":"[\w-]+","status":\d+,.*"tries":2`, out)
	m := regexp.MustCompile(`prices +(\d+) +(\d+)`).FindStringSubmatch(out)
	require.NotNil(t, m)
	requests, err := strconv.Atoi(m[1])
	require.NoError(t, err)
	tries, err := strconv.Atoi(m[2])
	require.NoError(t, err)
	assert.Greater(t, tries, requests, "each third answer of prices-1 is a failure, and nothing was tried again")
}

// With -keep it goes on until it is interrupted.
func TestDemoKeep(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out, errs clitest.Output
	ended := make(chan int)
	go func() { ended <- run(ctx, []string{"-keep", "-for", "1s"}, &out, &errs) }()
	eventually(t, func() bool { return strings.Contains(out.String(), "The load goes on") }, "the report")
	m := regexp.MustCompile(`The status page is at (\S+)\n`).FindStringSubmatch(out.String())
	require.NotNil(t, m)
	f := &fixture{}
	f.client = cleanClient(t)
	requests := func() string {
		_, body := f.do(t, "GET", m[1]+"status.json")
		return regexp.MustCompile(`"name":"products".*?"requests":\d+`).FindString(body)
	}
	before := requests()
	require.NotEmpty(t, before)
	eventually(t, func() bool { return requests() != before }, "the load goes on")
	cancel()
	select {
	case code := <-ended:
		assert.Zero(t, code, errs.String())
	case <-time.After(30 * time.Second):
		t.Fatal("it does not end")
	}
}
