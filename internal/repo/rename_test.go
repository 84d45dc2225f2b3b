package repo

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The command in CONTRIBUTING.md that renames the module leaves no trace of the old path
// and code that compiles, in a copy of the repository.
func TestRename(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root(t), "CONTRIBUTING.md"))
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```sh\n(OLD=[^`]*)```").FindSubmatch(text)
	if block == nil {
		t.Fatal("CONTRIBUTING.md has no block of sh that starts with OLD=")
	}
	dir := t.TempDir()
	for _, name := range files(t) {
		data, err := os.ReadFile(filepath.Join(root(t), name))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name), data)
	}
	run(t, dir, nil, "git", "init", "-q")
	run(t, dir, nil, "git", "add", "-A")
	run(t, dir, nil, "bash", "-euo", "pipefail", "-c", string(block[1]))

	old := modules(t)[0].Path
	for _, name := range strings.Fields(run(t, dir, nil, "git", "ls-files")) {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(data), old) {
			t.Errorf("%s still says %s", name, old)
		}
	}
	if bad := run(t, dir, nil, "gofmt", "-s", "-l", "."); bad != "" {
		t.Errorf("not gofmt -s:\n%s", bad)
	}
	for _, m := range modules(t) {
		rel, err := filepath.Rel(root(t), m.Dir)
		if err != nil {
			t.Fatal(err)
		}
		run(t, filepath.Join(dir, rel), nil, "go", "vet", "./...")
	}
}
