package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	widestCell = 40 // of a table; the rest is cut off
	mostParts  = 20 // that are listed as changed; -json has all
)

// writeJSON prints the plan for programs.
func (p *plan) writeJSON(w io.Writer) error {
	text, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(text, '\n'))
	return err
}

// writeText prints the plan for people.
func (p *plan) writeText(w io.Writer) error {
	var b bytes.Buffer
	p.writeSummary(&b)
	p.writeList(&b)
	p.writeLoads(&b)
	p.writeHot(&b)
	p.writeNext(&b)
	_, err := w.Write(b.Bytes())
	return err
}

func (p *plan) writeSummary(b *bytes.Buffer) {
	hint, keys := "", named(p.settings.file, "a sample")
	if p.settings.topology == "" {
		hint = " (your own: -topology FILE; more: -help)"
	}
	if p.settings.file == "" && len(p.settings.keys) > 0 {
		keys = "those of -key"
	}
	fmt.Fprintf(b, "Topology      %s%s\n", named(p.Topology.File, "a sample"), hint)
	fmt.Fprintf(b, "              epoch %d, %s, %s, %s\n", p.Topology.Epoch, p.Topology.Scheme,
		counted(int64(p.Topology.Parts), "part"), counted(int64(len(p.Shards)), "shard"))
	fmt.Fprintf(b, "Keys          %s: %s of type %v, %s\n", keys,
		counted(p.Total.Keys, "key"), p.Type, counted(p.Total.Requests, "request"))
	for i, l := range p.Left {
		fmt.Fprintf(b, "%-14s%s %s\n", []string{"Left out", ""}[min(i, 1)], l.Name, l.Why)
	}
}

func named(file, none string) string {
	switch file {
	case "":
		return none
	case "-":
		return "standard input"
	}
	return file
}

func (p *plan) writeList(b *bytes.Buffer) {
	if len(p.List) == 0 {
		return
	}
	fmt.Fprintf(b, "\nWhere keys are: %s listed\n\n", group(int64(len(p.List))))
	rows := [][]string{append([]string{"key", "requests"}, p.names()...)}
	for _, l := range p.List {
		row := []string{printable(string(l.Key)), group(l.Requests)}
		for _, c := range p.Strategies {
			row = append(row, printable(string(l.Shards[c.Name])))
		}
		rows = append(rows, row)
	}
	writeTable(b, rows, func(column int) bool { return column == 1 })
}

func (p *plan) names() []string {
	var names []string
	for _, c := range p.Strategies {
		names = append(names, c.Name)
	}
	return names
}

func (p *plan) writeLoads(b *bytes.Buffer) {
	p.writeLoad(b, "Keys", p.Total.Keys, p.Chance.Keys, func(c *column) *load { return &c.Keys })
	if p.Total.Requests > p.Total.Keys {
		p.writeLoad(b, "Requests", p.Total.Requests, p.Chance.Requests, func(c *column) *load { return &c.Requests })
	}
}

func (p *plan) writeLoad(b *bytes.Buffer, what string, total int64, chance float64, of func(*column) *load) {
	fair := strconv.FormatFloat(float64(total)/float64(len(p.Shards)), 'f', 1, 64)
	fmt.Fprintf(b, "\n%s of each shard (fair: %s; CV by chance: %.4f)\n\n", what, fair, chance)
	rows := [][]string{append([]string{"shard"}, p.names()...)}
	add := func(name string, cell func(*load) string) {
		row := []string{name}
		for i := range p.Strategies {
			row = append(row, cell(of(&p.Strategies[i])))
		}
		rows = append(rows, row)
	}
	for i, id := range p.Shards {
		add(printable(string(id)), func(l *load) string { return group(l.Shards[i]) })
	}
	rows = append(rows, nil)
	add("peak/fair", func(l *load) string { return ratio(l.Peak) })
	add("least/fair", func(l *load) string { return ratio(l.Least) })
	add("CV", func(l *load) string { return strconv.FormatFloat(l.CV, 'f', 4, 64) })
	writeTable(b, rows, func(column int) bool { return column > 0 })
}

func (p *plan) writeHot(b *bytes.Buffer) {
	if len(p.Hot) == 0 {
		fmt.Fprint(b, "\nHottest key   none: each is asked for once\n")
		return
	}
	fair := percent(1 / float64(len(p.Shards)))
	label := "Hottest key"
	if p.Hot[0].TooHot {
		label = "Too hot"
	}
	b.WriteByte('\n')
	for _, h := range p.Hot {
		fmt.Fprintf(b, "%-14s%s: %s, %s of all\n", label, cut(printable(string(h.Key))), counted(h.Requests, "request"), percent(h.Share))
		label = ""
	}
	fmt.Fprintf(b, "              A shard's fair share is %s.\n", fair)
	if p.Hot[0].TooHot {
		fmt.Fprint(b, "              No strategy can spread a single key;\n"+
			"              shard.NewPinned can give it a shard of its own.\n")
	}
}

func (p *plan) writeNext(b *bytes.Buffer) {
	c := p.Next
	if c == nil {
		return
	}
	fmt.Fprintf(b, "\nNext          %s, epoch %d\n", named(c.File, ""), c.Epoch)
	if c.Follows {
		fmt.Fprint(b, "              can follow the topology\n")
	} else {
		fmt.Fprintf(b, "              cannot follow the topology: %s\n", c.Why)
	}
	if c.NoMoves != "" {
		fmt.Fprintf(b, "Moves         unknown: %s\n", c.NoMoves)
	} else {
		fmt.Fprintf(b, "Moves         %s\n", p.share(*c.Moved))
		fmt.Fprintf(b, "Migrating     %s are to move then\n", p.share(*c.Moving))
	}
	if len(c.Parts) == 0 {
		fmt.Fprint(b, "Parts         none changes its shard, its state or its bounds\n")
		return
	}
	n := min(mostParts, len(c.Parts))
	fmt.Fprintf(b, "\nParts that change (%s of %s)\n\n", group(int64(n)), group(int64(len(c.Parts))))
	for _, d := range c.Parts[:n] {
		fmt.Fprintf(b, "  part %d: %s\n", d.ID, d.What)
		if d.Before != nil {
			fmt.Fprintf(b, "    - %s\n", printable(string(d.Before)))
		}
		if d.After != nil {
			fmt.Fprintf(b, "    + %s\n", printable(string(d.After)))
		}
	}
}

// share writes an amount as parts of all.
func (p *plan) share(a amount) string {
	return fmt.Sprintf("%s of the keys, %s of the requests",
		percent(float64(a.Keys)/float64(p.Total.Keys)), percent(float64(a.Requests)/float64(p.Total.Requests)))
}

// writeTable writes rows whose columns are aligned, those that are numbers on the right.
func writeTable(b *bytes.Buffer, rows [][]string, number func(column int) bool) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for j, cell := range row {
			row[j] = cut(cell)
			widths[j] = max(widths[j], utf8.RuneCountInString(row[j]))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for j, cell := range row {
			if number(j) {
				fmt.Fprintf(&line, "  %*s", widths[j], cell)
			} else {
				fmt.Fprintf(&line, "  %-*s", widths[j], cell)
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
}

func cut(cell string) string {
	if runes := []rune(cell); len(runes) > widestCell {
		return string(runes[:widestCell-1]) + "…"
	}
	return cell
}

// printable is a name, quoted if it has characters that a terminal might obey.
func printable(s string) string {
	if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}

func ratio(v float64) string { return strconv.FormatFloat(v, 'f', 3, 64) }

func percent(share float64) string { return strconv.FormatFloat(100*share, 'f', 1, 64) + " %" }

func counted(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return group(n) + " " + what + "s"
}

// group writes a count with a comma every three digits.
func group(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
