package main

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Quantities are written as people write them: 300M, 280B, 200KB, 10%, 100M/month. Units are decimal, as those of
// disks and networks are; a month has 30 days, and a year 365.

const (
	day   = 86_400.0
	month = 30 * day
	year  = 365 * day
)

var factors = map[string]float64{"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}

// Quantities are 0, or between these, so that no product or quotient of them overflows.
const (
	minQuantity = 1e-6
	maxQuantity = 1e30
)

// written is a number as people write it, with commas between thousands or without, and what is behind it.
var written = regexp.MustCompile(`^([+-]?(?:\d+|\d{1,3}(?:,\d{3})+|)(?:\.\d*)?(?:[eE][+-]?\d+)?) *([A-Za-z]*)$`)

// number parses a number that may have K, M, G or B (a billion), T, P or E behind it.
func number(s string) (float64, error) {
	n, suffix, ok := scaled(s)
	if suffix == "B" {
		suffix = "G"
	}
	factor, known := factors[suffix]
	if !ok || !known {
		return 0, fmt.Errorf("must be a number such as 250, 1.5M or 10B, got %q", s)
	}
	return bounded(n*factor, s)
}

// bytes parses a size: 280B, 200KB, 1.5 TB; a number alone is in bytes.
func bytes(s string) (float64, error) {
	n, suffix, ok := scaled(s)
	factor, known := factors[strings.TrimSuffix(suffix, "B")]
	if !ok || !known {
		return 0, fmt.Errorf("must be a size such as 280B, 200KB or 1.5TB, got %q", s)
	}
	return bounded(n*factor, s)
}

// scaled returns a number, and what is behind it, in capitals. What is too small for a float64 is not 0, but the least
// there is.
func scaled(s string) (n float64, suffix string, ok bool) {
	m := written.FindStringSubmatch(strings.TrimSpace(s))
	if m == nil || m[2] == "e" { // of 1e9, of which the 9 is missing
		return 0, "", false
	}
	n, err := strconv.ParseFloat(strings.ReplaceAll(m[1], ",", ""), 64)
	mantissa, _, _ := strings.Cut(strings.ToLower(m[1]), "e")
	if n == 0 && strings.ContainsAny(mantissa, "123456789") {
		n = math.SmallestNonzeroFloat64
	}
	if errors.Is(err, strconv.ErrRange) { // n is infinite, which is said to be too much
		err = nil
	}
	return n, strings.ToUpper(m[2]), err == nil
}

func bounded(n float64, s string) (float64, error) {
	if n != 0 && !(n >= minQuantity && n <= maxQuantity) {
		return 0, fmt.Errorf("must be 0, or from 0.000001 to 1e30, got %q", s)
	}
	return math.Abs(n), nil // 0, and not -0
}

// share parses a part of a whole: 10% or 0.1.
func share(s string) (float64, error) {
	text, percent := strings.CutSuffix(strings.TrimSpace(s), "%")
	n, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	if percent {
		n /= 100
	}
	if err != nil || !(n == 0 || n >= minQuantity && n <= 1) {
		return 0, fmt.Errorf("must be a share such as 10%% or 0.1, got %q", s)
	}
	return math.Abs(n), nil
}

// A rate is so many in a period.
type rate struct {
	count  float64
	period string // "day", "month", …
}

var periods = map[string]float64{"second": 1, "minute": 60, "hour": 3600, "day": day, "month": month, "year": year}

// perSecond returns the rate in seconds.
func (r rate) perSecond() float64 { return r.count / periods[r.period] }

// rates parses a rate: 100M/month, 40/second.
func rates(s string) (rate, error) {
	count, period, ok := strings.Cut(s, "/")
	period = strings.ToLower(strings.TrimSpace(period))
	for name := range periods {
		if period == name || period == name[:1] && name != "month" && name != "minute" {
			n, err := number(count)
			return rate{n, name}, err
		}
	}
	if !ok {
		return rate{}, fmt.Errorf("must be a rate such as 100M/month or 40/second, got %q", s)
	}
	return rate{}, fmt.Errorf("must be a number a second, minute, hour, day, month or year, got %q", s)
}

// count writes a number: with commas, and with so many decimal places that six digits show what it is. Of a number that is
// greater than floating point is exact for, all digits but the first fifteen are 0.
func count(n float64) string {
	text := ""
	switch {
	case n != 0 && n < minQuantity:
		return strconv.FormatFloat(n, 'g', 6, 64)
	case n == math.Trunc(n) && n >= 1e15:
		mantissa, exponent, _ := strings.Cut(strconv.FormatFloat(n, 'e', 14, 64), "e+")
		zeros, _ := strconv.Atoi(exponent)
		text = strings.Replace(mantissa, ".", "", 1) + strings.Repeat("0", zeros-14)
	case n == math.Trunc(n):
		text = strconv.FormatFloat(n, 'f', 0, 64)
	default:
		text = strconv.FormatFloat(n, 'f', max(5-int(math.Floor(math.Log10(n))), 0), 64)
	}
	whole, fraction, _ := strings.Cut(text, ".")
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if fraction = strings.TrimRight(fraction, "0"); fraction != "" {
		whole += "." + fraction
	}
	return whole
}

// size writes bytes in the unit that leaves less than 1000 of them.
func size(n float64) string {
	units := []string{"B", "KB", "MB", "GB", "TB", "PB", "EB"}
	i := 0
	for i < len(units)-1 && n >= 1000 {
		n /= 1000
		i++
	}
	return count(n) + " " + units[i]
}

// duration writes seconds in the largest unit of which there is one: days, hours, minutes.
func duration(seconds float64) string {
	for _, u := range []struct {
		name    string
		seconds float64
	}{{"d", day}, {"h", 3600}, {"min", 60}} {
		if seconds >= u.seconds {
			return count(round(seconds/u.seconds)) + " " + u.name
		}
	}
	if seconds >= 1 || seconds == 0 {
		return count(round(seconds)) + " s"
	}
	return time.Duration(math.Round(seconds * 1e9)).String()
}

// round takes away what floating point has added behind the ninth digit.
func round(n float64) float64 {
	r, _ := strconv.ParseFloat(strconv.FormatFloat(n, 'g', 9, 64), 64)
	return r
}
