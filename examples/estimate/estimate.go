package main

import (
	"fmt"
	"math"
)

// An input is what an estimate starts from.
type input struct {
	users   float64 // daily; 0: writes and reads are rates
	actions float64 // writes of a user a day
	writes  rate    // if there are no users
	ratio   float64 // reads for each write
	views   float64 // reads of a user a day, instead of ratio
	reads   rate    // instead of both

	size       float64 // bytes of a write
	mediaShare float64
	mediaSize  float64
	response   float64 // bytes of a read; 0: size

	years  int
	peak   float64 // times the mean
	copies float64 // of what is stored

	server      float64 // requests a second that one serves
	shardSize   float64 // bytes that one stores
	shardWrites float64 // writes a second that one takes
}

// A line is a step of the arithmetic, and its result.
type line struct {
	What   string  `json:"what"` // "": as in the line before
	Note   string  `json:"note,omitempty"`
	How    string  `json:"how"`
	Result float64 `json:"result"`
	Unit   string  `json:"unit"`
}

// estimate does the arithmetic, in the order in which it would be done on the back of an envelope.
func (in input) estimate() []line {
	var lines []line
	add := func(what string, result float64, unit, note, how string, args ...any) float64 {
		lines = append(lines, line{what, note, fmt.Sprintf(how, args...), round(result), unit})
		return result
	}

	var writes, daily float64 // a second, a day
	if in.users > 0 {
		daily = add("writes", in.users*in.actions, "a day", "", "%s users × %s", count(in.users), count(in.actions))
		writes = add("", daily/day, "a second", "", "%s ÷ 86,400 s", count(daily))
	} else {
		writes = add("writes", in.writes.perSecond(), "a second", "", "%s a %s ÷ %s s", count(in.writes.count), in.writes.period, count(periods[in.writes.period]))
		daily = writes * day
	}
	add("", writes*in.peak, "a second", "at peak", "%s × %s", count(round(writes)), count(in.peak))

	var reads float64
	switch {
	case in.reads.period != "":
		reads = add("reads", in.reads.perSecond(), "a second", "", "%s a %s ÷ %s s", count(in.reads.count), in.reads.period, count(periods[in.reads.period]))
	case in.views > 0:
		views := add("reads", in.users*in.views, "a day", "", "%s users × %s", count(in.users), count(in.views))
		reads = add("", views/day, "a second", "", "%s ÷ 86,400 s", count(views))
	default:
		reads = add("reads", writes*in.ratio, "a second", "", "%s × %s", count(round(writes)), count(in.ratio))
	}
	add("", reads*in.peak, "a second", "at peak", "%s × %s", count(round(reads)), count(in.peak))

	// A rate that is given for a month is stored for a month: that is the figure that people know.
	period, of := "day", daily
	if in.users == 0 {
		period, of = in.writes.period, in.writes.count
	}
	stored := add("storage", of*in.size, "B a "+period, "", "%s × %s", count(round(of)), size(in.size))
	if in.mediaShare > 0 {
		media := add("media", of*in.mediaShare*in.mediaSize, "B a "+period, "", "%s × %s %% × %s", count(round(of)), count(round(in.mediaShare*100)), size(in.mediaSize))
		stored = add("together", stored+media, "B a "+period, "", "%s + %s", size(round(stored)), size(round(media)))
	}
	total := 0.0
	for y := 1; y <= in.years; y++ {
		// Of up to ten years each, and of more only the first and the last.
		if total = stored / periods[period] * year * float64(y); in.years > 10 && y < in.years && y > 1 {
			continue
		}
		what, years := "", "years"
		if y == 1 {
			what, years = "kept", "year"
		}
		if period == "month" { // of which people count twelve in a year
			total = stored * 12 * float64(y)
			add(what, total, "B", fmt.Sprintf("in %d %s", y, years), "%s × 12 × %d", size(round(stored)), y)
			continue
		}
		add(what, total, "B", fmt.Sprintf("in %d %s", y, years), "%s × %s × %d", size(round(stored)), count(year/periods[period]), y)
	}
	if in.copies != 1 {
		total = add("", total*in.copies, "B", "with copies", "%s × %s", size(round(total)), count(in.copies))
	}

	response := in.response
	if response == 0 {
		response = in.size
	}
	add("bandwidth in", stored/periods[period], "B a second", "", "%s a %s ÷ %s s", size(round(stored)), period, count(periods[period]))
	out := add("bandwidth out", reads*response, "B a second", "", "%s × %s", count(round(reads)), size(response))
	add("", out*in.peak, "B a second", "at peak", "%s × %s", size(round(out)), count(in.peak))

	add("servers", ceil(reads/in.server), "", "for reads", "%s ÷ %s", count(round(reads)), count(in.server))
	add("", ceil(reads*in.peak/in.server), "", "at peak", "%s ÷ %s", count(round(reads*in.peak)), count(in.server))
	bySize := add("shards", ceil(total/in.shardSize), "", "for what is kept", "%s ÷ %s", size(round(total)), size(in.shardSize))
	byWrites := add("", ceil(writes*in.peak/in.shardWrites), "", "for writes at peak", "%s ÷ %s", count(round(writes*in.peak)), count(in.shardWrites))
	add("", max(bySize, byWrites), "", "", "the greater of %s and %s", count(bySize), count(byWrites))
	return lines
}

// ceil rounds up to whole machines, of which there is one at least; what floating point has added is no reason for
// another.
func ceil(n float64) float64 { return max(math.Ceil(round(n)), 1) }

// downtime is how long a service is away with an availability, in seconds.
type downtime struct {
	Percent string  `json:"percent"`
	Year    float64 `json:"year_seconds"`
	Month   float64 `json:"month_seconds"`
	Week    float64 `json:"week_seconds"`
}

// availabilities are those of the table.
var availabilities = []string{"90", "95", "99", "99.5", "99.9", "99.95", "99.99", "99.999"}

func (in input) downtimes() []downtime {
	var list []downtime
	for _, percent := range availabilities {
		var p float64
		fmt.Sscan(percent, &p)
		away := (100 - p) / 100
		list = append(list, downtime{percent, round(year * away), round(month * away), round(7 * day * away)})
	}
	return list
}
