package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/examples/internal/clitest"
)

func command(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs strings.Builder
	code = run(args, &out, &errs)
	require.Truef(t, out.Len() == 0 || errs.Len() == 0, "stdout:\n%s\nstderr:\n%s", out.String(), errs.String())
	return code, out.String(), errs.String()
}

func TestGolden(t *testing.T) {
	for name, args := range map[string][]string{
		"posts": nil, "posts-small": {"-for", "posts-small"}, "shortener": {"-for", "shortener"},
		"own":   {"-users", "5M", "-actions", "0.5", "-ratio", "20", "-size", "2KB", "-copies", "3", "-years", "20", "-media-share", "0"},
		"rates": {"-writes", "40/second", "-reads", "3850/s", "-size", "500", "-years", "2"},
		"json":  {"-for", "shortener", "-json"},
	} {
		code, out, errs := command(t, args...)
		require.Zero(t, code, errs)
		clitest.Golden(t, filepath.Join("testdata", name+".txt"), out)
	}
}

// TestKnownFigures has those of two worked examples and of a URL shortener as they are taught, each with the
// exact one, which rounding must lead to.
func TestKnownFigures(t *testing.T) {
	for _, c := range []struct {
		system, what, note string
		nth                int // of the lines with that note
		exact, taught      float64
		unit               string
		within             float64 // of what is taught, as a share
	}{
		{"posts", "writes", "", 0, 600e6, 600e6, "a day", 0},
		{"posts", "writes", "", 1, 6944.44444, 7000, "a second", 0.01},
		{"posts", "reads", "", 0, 694444.444, 700_000, "a second", 0.01},
		{"posts", "storage", "", 0, 168e9, 168e9, "B a day", 0},
		{"posts", "media", "", 0, 12e12, 12e12, "B a day", 0},
		{"posts", "together", "", 0, 12.168e12, 12.2e12, "B a day", 0.01},
		{"posts", "bandwidth out", "", 0, 194.444444e6, 196e6, "B a second", 0.01},
		{"posts", "servers", "for reads", 0, 70, 70, "", 0},
		{"posts-small", "writes", "", 0, 200e6, 200e6, "a day", 0},
		{"posts-small", "writes", "", 1, 2314.81481, 2300, "a second", 0.01},
		{"posts-small", "reads", "", 0, 10e9, 10e9, "a day", 0},
		{"posts-small", "reads", "", 1, 115740.741, 115_000, "a second", 0.01},
		{"posts-small", "storage", "", 0, 56e9, 56e9, "B a day", 0},
		{"posts-small", "media", "", 0, 4e12, 4e12, "B a day", 0},
		{"posts-small", "kept", "in 5 years", 0, 7.4022e15, 7.3e15, "B", 0.015}, // taught without the text
		{"posts-small", "bandwidth out", "", 0, 115.740741e6, 115e6, "B a second", 0.01},
		{"shortener", "writes", "", 0, 38.5802469, 40, "a second", 0.04},
		{"shortener", "reads", "", 0, 3858.02469, 3850, "a second", 0.01},
		{"shortener", "storage", "", 0, 50e9, 50e9, "B a month", 0},
		{"shortener", "kept", "in 10 years", 0, 6e12, 6e12, "B", 0},
	} {
		in, _, err := parse([]string{"-for", c.system})
		require.NoError(t, err)
		what, nth, found := "", 0, false
		for _, l := range in.estimate() {
			if l.What != "" {
				what, nth = l.What, 0
			}
			if what != c.what || l.Note != c.note {
				continue
			}
			if nth++; nth-1 == c.nth {
				require.InEpsilon(t, c.exact, l.Result, 1e-8, "%s %s", c.system, c.what)
				require.InDelta(t, c.taught, l.Result, c.taught*c.within, "%s %s", c.system, c.what)
				require.Equal(t, c.unit, l.Unit)
				found = true
			}
		}
		require.True(t, found, "%s %s %s", c.system, c.what, c.note)
	}
}

func TestDowntimes(t *testing.T) {
	texts := map[string][3]string{}
	for _, d := range (input{}).downtimes() {
		texts[d.Percent] = [3]string{duration(d.Year), duration(d.Month), duration(d.Week)}
	}
	require.Equal(t, map[string][3]string{
		"90": {"36.5 d", "3 d", "16.8 h"}, "95": {"18.25 d", "1.5 d", "8.4 h"},
		"99": {"3.65 d", "7.2 h", "1.68 h"}, "99.5": {"1.825 d", "3.6 h", "50.4 min"},
		"99.9": {"8.76 h", "43.2 min", "10.08 min"}, "99.95": {"4.38 h", "21.6 min", "5.04 min"},
		"99.99": {"52.56 min", "4.32 min", "1.008 min"}, "99.999": {"5.256 min", "25.92 s", "6.048 s"},
	}, texts)
}

func TestQuantities(t *testing.T) {
	for s, want := range map[string]float64{
		"0": 0, "250": 250, "1.5M": 1.5e6, "10B": 10e9, "10G": 10e9, "1e6": 1e6, "3k": 3000, "300,000": 300_000, "2T": 2e12, " 7 M ": 7e6,
		"1,234,567.5": 1_234_567.5, ".5": 0.5, "2E": 2e18, "1e3m": 1e9, "1e30": 1e30, "0.000001": 1e-6, "+5": 5,
	} {
		n, err := number(s)
		require.NoError(t, err, s)
		require.Equal(t, want, n, s)
	}
	for s, want := range map[string]float64{"280B": 280, "280": 280, "200KB": 200e3, "1.5 TB": 1.5e12, "2m": 2e6, "1e3B": 1000} {
		n, err := bytes(s)
		require.NoError(t, err, s)
		require.Equal(t, want, n, s)
	}
	for s, want := range map[string]float64{"10%": 0.1, "0.1": 0.1, "100 %": 1, "0": 0} {
		n, err := share(s)
		require.NoError(t, err, s)
		require.Equal(t, want, n, s)
	}
	for s, want := range map[string]rate{"100M/month": {100e6, "month"}, "40/s": {40, "second"}, "5 / Day": {5, "day"}, "7/year": {7, "year"}} {
		r, err := rates(s)
		require.NoError(t, err, s)
		require.Equal(t, want, r, s)
	}
	for _, s := range []string{"", "x", "-1", "NaN", "Inf", "1e400", "1e31", "5Q", "0x10", "1_000", "MM", "5KM",
		"0,5", "1,5M", "1,,000", "10,00", "1.5.5", ".", "1e", "1e-7", "1e-400", "-1e-400", "1 2"} {
		_, err := number(s)
		require.Error(t, err, "number %q", s)
		_, err = bytes(s)
		require.Error(t, err, "bytes %q", s)
		_, err = rates(s + "/day")
		require.Error(t, err, "rate %q", s)
	}
	for _, s := range []string{"", "5", "5/", "5/m", "5/fortnight", "/day"} {
		_, err := rates(s)
		require.Error(t, err, "rate %q", s)
	}
	for _, s := range []string{"", "101%", "-1%", "2", "NaN", "x%"} {
		_, err := share(s)
		require.Error(t, err, "share %q", s)
	}
	for n, want := range map[float64]string{
		0: "0", 1: "1", 999: "999", 1000: "1,000", 1234567: "1,234,567", 0.5: "0.5", 6944.444444: "6,944.44", 0.000123456: "0.000123456",
		2083333.33: "2,083,333", 5.78703704e-5: "0.0000578704", 1.5e-9: "1.5e-09", 1e30: "1,000,000,000,000,000,000,000,000,000,000",
		123456789012345678: "123,456,789,012,346,000",
	} {
		require.Equal(t, want, count(n))
	}
	for n, want := range map[float64]string{0: "0 B", 999: "999 B", 1000: "1 KB", 12.168e12: "12.168 TB", 5e21: "5,000 EB"} {
		require.Equal(t, want, size(n))
	}
	require.Equal(t, "0 s", duration(0))
	require.Equal(t, "250ms", duration(0.25))
}

// TestReplaced has flags that take the place of what an example has.
func TestReplaced(t *testing.T) {
	for args, want := range map[string][2]string{
		"-reads 0/day":                                  {"6,944.44 a second", "0 a day ÷ 86,400 s = 0 a second"},
		"-for posts-small -writes 10/s":                 {"10 a second", "10 × 50 = 500 a second"}, // 100 views for 2 posts
		"-for shortener -ratio 5":                       {"38.5802 a second", "38.5802 × 5 = 192.901 a second"},
		"-for shortener -users 1M -actions 8640":        {"100,000 a second", "10,000,000,000 a month ÷ 2,592,000 s = 3,858.02 a second"},
		"-for shortener -users 5 -actions 2 -views 864": {"0.000115741 a second", "4,320 ÷ 86,400 s = 0.05 a second"},
	} {
		in, _, err := parse(strings.Fields(args))
		require.NoError(t, err, args)
		var writes, reads string
		what := ""
		for _, l := range in.estimate() {
			if l.What != "" {
				what = l.What
			}
			switch text := count(l.Result) + " " + l.Unit; {
			case l.Unit != "a second" || l.Note != "":
			case what == "writes":
				writes = text
			case what == "reads":
				reads = l.How + " = " + text
			}
		}
		require.Equal(t, want, [2]string{writes, reads}, args)
	}
}

// TestExtremes calculates with the largest and the smallest that can be given.
func TestExtremes(t *testing.T) {
	for _, most := range [][2]string{{"1e30", "1e-6"}, {"1e-6", "1e30"}} {
		args := []string{"-json", "-years=100"}
		for _, name := range []string{"users", "actions", "ratio", "size", "media-size", "response"} {
			args = append(args, "-"+name+"="+most[0])
		}
		if most[0] == "1e30" {
			args = append(args, "-peak=1e30", "-copies=1e30", "-media-share=1")
		}
		for _, name := range []string{"server", "shard-size", "shard-writes"} {
			args = append(args, "-"+name+"="+most[1])
		}
		code, out, errs := command(t, args...)
		require.Zero(t, code, errs)
		require.True(t, json.Valid([]byte(out)))
		code, out, errs = command(t, args[1:]...)
		require.Zero(t, code, errs)
		require.NotContains(t, out, "Inf")
		require.NotContains(t, out, "NaN")
		require.NotRegexp(t, `= 0 (a|B)`, out, "what is little is not nothing")
	}
}

func TestErrors(t *testing.T) {
	for args, want := range map[string]string{
		"-for feed":                       `-for must be posts, posts-small or shortener, got "feed"`,
		"-users x":                        `invalid value "x" for flag -users: must be a number such as 250, 1.5M or 10B, got "x"`,
		"-users 0":                        "-users must be more than 0",
		"-size 5X":                        `invalid value "5X" for flag -size: must be a size such as 280B, 200KB or 1.5TB, got "5X"`,
		"-media-share 20":                 `invalid value "20" for flag -media-share: must be a share such as 10% or 0.1, got "20"`,
		"-writes 5":                       `invalid value "5" for flag -writes: must be a rate such as 100M/month or 40/second, got "5"`,
		"-writes 5/m":                     `invalid value "5/m" for flag -writes: must be a number a second, minute, hour, day, month or year, got "5/m"`,
		"-years 2.5":                      "-years must be a whole number from 1 to 100, got 2.5",
		"-years 0":                        "-years must be a whole number from 1 to 100, got 0",
		"-peak 0.5":                       "-peak must be at least 1, got 0.5",
		"-copies 0":                       "-copies must be at least 1, got 0",
		"-server 0":                       "-server must be more than 0",
		"-server 1e-300":                  `invalid value "1e-300" for flag -server: must be 0, or from 0.000001 to 1e30, got "1e-300"`,
		"-response 0":                     "-response must be more than 0",
		"-for shortener -media-share 10%": "-media-share must be given with a -media-size of more than 0",
		"-for shortener -media-size 1KB":  "-media-size must be given with a -media-share of more than 0",
		"-media-size 0":                   "-media-share must be given with a -media-size of more than 0",
		"-for shortener -users 5":         "-users and -actions must both be given, as the example has a rate of writes and no users",
		"-for shortener -views 5":         "-users and -actions must both be given, as the example has a rate of writes and no users",
		"-users 5 -writes 5/day":          "give -users and -actions or -writes, and one of -ratio, -views and -reads",
		"-ratio 5 -views 5":               "give -users and -actions or -writes, and one of -ratio, -views and -reads",
		"posts":                           `unexpected argument "posts"`,
		"-nothing":                        "flag provided but not defined: -nothing",
	} {
		code, _, errs := command(t, strings.Fields(args)...)
		require.Equal(t, 2, code, args)
		require.Equal(t, "estimate: "+want+" (see -help)\n", errs, args)
	}
	code, out, _ := command(t, "-help")
	require.Zero(t, code)
	require.Contains(t, out, "-shard-size SIZE")

	var errs strings.Builder
	require.Equal(t, 1, run(nil, clitest.Full{}, &errs))
	require.Equal(t, "estimate: the estimate cannot be written: no space left\n", errs.String())
}

func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	_, out, _ := command(t, "-for", "shortener")
	table, _, _ := strings.Cut(out, "\n\n")
	require.Contains(t, string(readme), table)
	require.True(t, json.Valid([]byte(func() string { _, out, _ := command(t, "-json"); return out }())))
}
