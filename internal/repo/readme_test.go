package repo

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// program is a program in README.md, with what the text says that it prints.
type program struct {
	line           int // of README.md
	source, output string
}

// readme returns the text of README.md.
func readme(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root(t), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// programs returns the Go programs of a Markdown text and what is wrong with them. Every
// block of Go is a whole program, and between it and the block of text with its output
// stands a line that ends in "prints:", so that there is no snippet that nothing runs.
func programs(markdown string) (found []program, problems []string) {
	lines := strings.Split(markdown, "\n")
	// block returns the lines of the block whose fence is line i, and the line of its end.
	block := func(i int) (string, int) {
		for j := i + 1; j < len(lines); j++ {
			if lines[j] == "```" {
				return strings.Join(lines[i+1:j], "\n") + "\n", j
			}
		}
		return "", len(lines)
	}
	for i := 0; i < len(lines); i++ {
		if !strings.HasPrefix(lines[i], "```") {
			continue
		}
		fence := i
		var source string
		source, i = block(fence)
		if lines[fence] != "```go" {
			continue
		}
		p := program{line: fence + 1, source: source}
		if !regexp.MustCompile(`(?m)^package main$`).MatchString(source) {
			problems = append(problems, fmt.Sprintf("README.md:%d: not a whole program", p.line))
			continue
		}
		var between string
		next := i + 1
		for ; next < len(lines) && !strings.HasPrefix(lines[next], "```"); next++ {
			between += lines[next] + "\n"
		}
		if next == len(lines) || lines[next] != "```text" || !strings.HasSuffix(strings.TrimSpace(between), "prints:") {
			problems = append(problems, fmt.Sprintf("README.md:%d: no output after the program", p.line))
			continue
		}
		p.output, i = block(next)
		found = append(found, p)
	}
	return found, problems
}

func TestPrograms(t *testing.T) {
	const markdown = "```sh\nmake\n```\n" +
		"```go\npackage main\n\nfunc main() {}\n```\nThis prints:\n\n```text\na\nb\n```\n" +
		"```go\nx := 1\n```\n" +
		"```go\npackage main\n```\nIt has this output:\n```text\n```\n" +
		"```go\npackage main\n```\nIt prints:\n```sh\n```\n" +
		"```go\npackage main\n```\nIt prints:\n"
	got, problems := programs(markdown)
	want := []program{{line: 4, source: "package main\n\nfunc main() {}\n", output: "a\nb\n"}}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	wantProblems(t, problems,
		"README.md:15: not a whole program",
		"README.md:18: no output after the program",
		"README.md:24: no output after the program",
		"README.md:30: no output after the program",
	)
}

// The README's programs compile against this checkout and print what it says.
func TestReadmePrograms(t *testing.T) {
	found, problems := programs(readme(t))
	report(t, problems)
	if len(found) == 0 {
		t.Fatal("README.md has no program")
	}
	mod := modFile(t, root(t)).Module.Path
	for _, p := range found {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "main.go"), []byte(p.source))
		write(t, filepath.Join(dir, "go.mod"), fmt.Appendf(nil,
			"module readme\n\ngo 1.26.0\n\nrequire %s v0.0.0\n\nreplace %[1]s => %s\n", mod, root(t)))
		// The checkout's sums vouch for what it requires.
		if sum, err := os.ReadFile(filepath.Join(root(t), "go.sum")); err == nil {
			write(t, filepath.Join(dir, "go.sum"), sum)
		}
		got := run(t, dir, []string{"GOFLAGS=-mod=mod"}, "go", "run", ".")
		if got != p.output {
			t.Errorf("README.md:%d: the program prints:\n%s\nwant:\n%s", p.line, got, p.output)
		}
	}
}

// The README's tables list the packages and examples that exist, and no others.
func TestReadmeTables(t *testing.T) {
	mods := modules(t)
	mod := mods[0].Path
	text := readme(t)
	if got, want := tableLinks(text, "Packages"), topLevel(mod, listPackages(t, root(t), nil, "./...")); !slices.Equal(got, want) {
		t.Errorf("README.md lists the packages %q, want %q", got, want)
	}
	i := slices.IndexFunc(mods, func(m goModule) bool { return m.Path == path.Join(mod, "examples") })
	if i < 0 {
		t.Fatal("no module examples")
	}
	var want []string
	for _, p := range listPackages(t, mods[i].Dir, nil, "./...") {
		if p.Name == "main" {
			want = append(want, strings.TrimPrefix(p.ImportPath, mod+"/"))
		}
	}
	if got := tableLinks(text, "Examples"); !slices.Equal(got, want) {
		t.Errorf("README.md lists the examples %q, want %q", got, want)
	}
}

// tableLinks returns, sorted, the targets of the links that start the rows of the tables
// under a heading of the second level.
func tableLinks(markdown, heading string) []string {
	_, section, _ := strings.Cut(markdown, "\n## "+heading+"\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var targets []string
	for _, m := range regexp.MustCompile("(?m)^\\| *\\[`[^`]*`\\]\\(([^)]*)\\)").FindAllStringSubmatch(section, -1) {
		targets = append(targets, m[1])
	}
	slices.Sort(targets)
	return targets
}

func TestTableLinks(t *testing.T) {
	const markdown = "# x\n\n## Packages\n\n| a | b |\n|---|---|\n| [`c`](c) | [`x`](x) |\n| [`b`](b) | |\n\n## Next\n\n| [`d`](d) | |\n"
	if got, want := tableLinks(markdown, "Packages"), []string{"b", "c"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
