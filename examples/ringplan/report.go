package main

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/sysblocks/sysblocks/examples/internal/progress"
	"github.com/sysblocks/sysblocks/internal/plot"
)

const (
	lineWidth = 78
	widest    = 110 // on wide terminals
	leastBar  = 16  // where IDs leave less
)

// writeText prints the plan for people.
func (p *plan) writeText(w io.Writer) error {
	var b bytes.Buffer
	width := lineWidth
	if columns, ok := progress.Terminal(w); ok {
		width = min(max(columns-1, lineWidth), widest)
	}
	p.writeSummary(&b)
	p.writeNodes(&b)
	p.writeLoad(&b, width)
	p.writeTransfers(&b)
	p.writeKeys(&b)
	_, err := w.Write(b.Bytes())
	return err
}

func (p *plan) writeSummary(b *bytes.Buffer) {
	hint := ""
	if p.file == "" {
		hint = " (your own: -nodes FILE; more: -help)"
	}
	fmt.Fprintf(b, "Nodes         %s%s\n", p.source(), hint)
	for i, c := range p.describe() {
		fmt.Fprintf(b, "%-14s%s\n", []string{"Change", ""}[min(i, 1)], c)
	}
	for i, m := range p.maps {
		fmt.Fprintf(b, "%-14s%s, %v, fingerprint %016x\n", []string{"Before", "After"}[i],
			counted(m.Len(), "node"), p.algorithm[i].make(), m.Fingerprint())
	}
	switch p.method {
	case exact:
		fmt.Fprint(b, "Shares        exact, of all positions that keys can have\n")
	case sampled:
		fmt.Fprintf(b, "Shares        sampled at %s positions, as rendezvous has no ranges;\n"+
			"              19 times of 20 within %s of the truth\n", group(p.compared), percent(p.noise(0.5)))
	case byKeys:
		fmt.Fprintf(b, "Shares        of the %s given, which the algorithms hash differently\n", counted(p.compared, "key"))
	}

	fmt.Fprintf(b, "\nMoves         %s%s of the keys\n", percent(p.moved), p.margin(p.moved))
	fmt.Fprintf(b, "Least         %s would have to, were all shares fair before and after\n", percent(p.least))
	fmt.Fprintf(b, "Without need  %s%s: from nodes that stay, no lighter,\n"+
		"              to nodes that were there, no heavier\n", percent(p.needless), p.margin(p.needless))
	for i, when := range []string{"before", "after"} {
		if k := p.peak[i]; k.id != "" {
			fmt.Fprintf(b, "%-14s%.3f of its fair share has %s %s\n", []string{"Peak", ""}[i], k.ratio, k.id, when)
		}
	}
	if p.algorithm[0] == p.algorithm[1] && p.maps[0].Fingerprint() == p.maps[1].Fingerprint() {
		fmt.Fprint(b, "\nNothing changes: give -add, -remove, -weight, -to or -to-algorithm.\n")
	}
}

// source says where the nodes are from.
func (p *plan) source() string { return named(p.file, "a sample") }

func named(file, none string) string {
	switch file {
	case "":
		return none
	case "-":
		return "standard input"
	}
	return file
}

// describe says what is to change.
func (p *plan) describe() []string {
	var all []string
	if p.to != "" {
		all = append(all, "all nodes as in "+named(p.to, ""))
	}
	for _, c := range p.changes {
		switch c.kind {
		case add:
			text := fmt.Sprintf("add %s, weight %d", c.node.ID, c.node.Weight)
			if c.node.Zone != "" {
				text += ", zone " + c.node.Zone
			}
			all = append(all, text)
		case remove:
			all = append(all, "remove "+c.node.ID)
		case reweight:
			all = append(all, fmt.Sprintf("weight %d for %s", c.node.Weight, c.node.ID))
		}
	}
	if p.algorithm[0] != p.algorithm[1] {
		all = append(all, fmt.Sprintf("algorithm %v", p.algorithm[1].make()))
	}
	if len(all) == 0 {
		return []string{"none"}
	}
	return all
}

func (p *plan) writeNodes(b *bytes.Buffer) {
	fmt.Fprint(b, "\nNodes: fair shares, and what they give and take, in % of the keys\n\n")
	rows := [][]string{
		{"", "", "weight", "", "fair", "", "", ""},
		{"node", "zone", "before", "after", "before", "after", "gives", "takes"},
	}
	for _, r := range p.nodes {
		cells := []string{r.id, r.zone()}
		for _, s := range r.sides {
			cells = append(cells, s.cell(strconv.FormatUint(uint64(s.weight), 10)))
		}
		for _, s := range r.sides {
			cells = append(cells, s.cell(points(s.fair)))
		}
		rows = append(rows, append(cells, points(r.gives), points(r.takes)))
	}
	writeTable(b, rows)
}

// cell is text, if the node is there.
func (s side) cell(text string) string {
	if !s.there {
		return "-"
	}
	return text
}

// zone is that afterwards, with the former one if it is another.
func (r row) zone() string {
	before, after := r.sides[0], r.sides[1]
	switch {
	case !before.there || before.zone == after.zone:
		return orDash(after.zone)
	case !after.there:
		return orDash(before.zone)
	}
	return orDash(before.zone) + ">" + orDash(after.zone)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// writeTable writes rows whose first two columns are text, and the others numbers.
func writeTable(b *bytes.Buffer, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for j, cell := range row {
			widths[j] = max(widths[j], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for j, cell := range row {
			if j < 2 {
				fmt.Fprintf(&line, "  %-*s", widths[j], cell)
			} else {
				fmt.Fprintf(&line, "  %*s", widths[j], cell)
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
}

// writeLoad draws the shares as bars.
func (p *plan) writeLoad(b *bytes.Buffer, width int) {
	fmt.Fprint(b, "\nLoad before (░) and after (█), in % of the keys, and as a multiple of the\nfair share, which is at |\n\n")
	ids, most := 0, 0.0
	for _, r := range p.nodes {
		ids = max(ids, utf8.RuneCountInString(r.id))
		for _, s := range r.sides {
			most = max(most, s.share, s.fair)
		}
	}
	room := max(width-ids-len("    100.000  1.000"), leastBar)
	for _, r := range p.nodes {
		name := r.id
		for i, s := range r.sides {
			if s.there {
				ratio := "    -"
				if s.fair > 0 {
					ratio = fmt.Sprintf("%5.3f", s.ratio())
				}
				fmt.Fprintf(b, "  %-*s  %-*s %7s  %s\n", ids, name, room-1,
					drawBar(s, most, room-1, []rune("░█")[i]), points(s.share), ratio)
				name = ""
			}
		}
	}
}

// drawBar returns a bar, so that most takes all the width.
func drawBar(s side, most float64, width int, mark rune) string {
	if most == 0 {
		return ""
	}
	column := func(v float64) int { return int(math.Round(v / most * float64(width-1))) }
	line := []rune(strings.Repeat(" ", width))
	for i := range column(s.share) {
		line[i] = mark
	}
	if s.fair > 0 {
		line[column(s.fair)] = '|'
	}
	return string(line)
}

func (p *plan) writeTransfers(b *bytes.Buffer) {
	n := min(p.top, len(p.transfers))
	if n == 0 {
		return
	}
	fmt.Fprintf(b, "\nLargest transfers, in %% of the keys (%d of %d)\n\n", n, len(p.transfers))
	rows := [][]string{{"from", "to", "share"}}
	for _, t := range p.transfers[:n] {
		rows = append(rows, []string{nobody(t.from), nobody(t.to), points(t.share)})
	}
	writeTable(b, rows)
}

// nobody is what stands for no node.
func nobody(id string) string {
	if id == "" {
		return "(none)"
	}
	return id
}

func (p *plan) writeKeys(b *bytes.Buffer) {
	if p.keyCount == 0 {
		return
	}
	fmt.Fprintf(b, "\nKeys          %s of the %s of %s move, %s\n", group(p.keyMoves), group(p.keyCount),
		named(p.keys, ""), percent(float64(p.keyMoves)/float64(p.keyCount)))
	if len(p.keyList) == 0 {
		return
	}
	b.WriteByte('\n')
	for _, k := range p.keyList {
		fmt.Fprintf(b, "  %s: %s -> %s\n", printable(k.key), nobody(k.from), nobody(k.to))
	}
}

// printable is a key, quoted if it has characters that a terminal might obey.
func printable(key string) string {
	if strings.ContainsFunc(key, func(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }) {
		return strconv.Quote(key)
	}
	return key
}

// margin is the noise of a share.
func (p *plan) margin(share float64) string {
	if p.method != sampled {
		return ""
	}
	return " (± " + points(p.noise(share)) + ")"
}

// chart returns the load as bars.
func (p *plan) chart() plot.Bars {
	chart := plot.Bars{
		Title:    "Load before and after: " + filepath.Base(p.source()),
		YLabel:   "share of the keys in %",
		MarkName: "fair share",
		Series:   []plot.BarSeries{{Name: "before"}, {Name: "after"}},
	}
	for _, r := range p.nodes {
		chart.Groups = append(chart.Groups, r.id)
		for i, s := range r.sides {
			share, fair := math.NaN(), math.NaN()
			if s.there {
				share, fair = 100*s.share, 100*s.fair
			}
			series := &chart.Series[i]
			series.Values = append(series.Values, share)
			series.Marks = append(series.Marks, fair)
		}
	}
	return chart
}

// points writes a share in percent, without the sign.
func points(share float64) string { return strconv.FormatFloat(100*share, 'f', 3, 64) }

func percent(share float64) string { return points(share) + " %" }

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return group(n) + " " + what + "s"
}

// group writes a count with a comma every three digits.
func group(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
