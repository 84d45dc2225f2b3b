package repo

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// goPackage is the part of go list -json that the tests use.
type goPackage struct {
	ImportPath string
	Dir        string
	Name       string
	Standard   bool
	Module     *goModule

	GoFiles, CgoFiles, IgnoredGoFiles  []string
	Imports, TestImports, XTestImports []string
}

// goModule is the part of go list -m -json and go mod edit -json that the tests use.
type goModule struct {
	Path, Version, Dir string
}

// goMod is the part of go mod edit -json that the tests use.
type goMod struct {
	Module  goModule
	Require []struct {
		Path, Version string
		Indirect      bool
	}
	Replace []struct{ Old, New goModule }
	Tool    []struct{ Path string }
}

// root returns the directory of the repository.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// run executes a command in dir, with env added to the environment, and returns what it
// prints on its standard output.
func run(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	// What the caller of the tests has set for modules must not decide their result.
	cmd.Env = append(os.Environ(), "GOFLAGS=-buildvcs=false", "GOWORK=off")
	cmd.Env = append(cmd.Env, env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s in %s: %v\n%s%s", name, strings.Join(args, " "), dir, err, &stdout, &stderr)
	}
	return stdout.String()
}

// decode reads the JSON values that a go command prints one after the other.
func decode[T any](t *testing.T, out string) []T {
	t.Helper()
	var all []T
	for d := json.NewDecoder(strings.NewReader(out)); ; {
		var v T
		err := d.Decode(&v)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, v)
	}
}

// listPackages returns what go list prints for args in dir, where the module's own go.mod
// applies and not the workspace.
func listPackages(t *testing.T, dir string, env []string, args ...string) []goPackage {
	t.Helper()
	return decode[goPackage](t, run(t, dir, env, "go", append([]string{"list", "-json"}, args...)...))
}

// modFile returns the contents of the go.mod in dir.
func modFile(t *testing.T, dir string) goMod {
	t.Helper()
	return decode[goMod](t, run(t, dir, nil, "go", "mod", "edit", "-json"))[0]
}

// modules returns the modules of the workspace, the root module first.
func modules(t *testing.T) []goModule {
	t.Helper()
	all := decode[goModule](t, run(t, root(t), []string{"GOWORK="}, "go", "list", "-m", "-json"))
	slices.SortFunc(all, func(a, b goModule) int { return strings.Compare(a.Path, b.Path) })
	if len(all) == 0 || all[0].Dir != root(t) {
		t.Fatalf("the shortest module path is not the root's: %v", all)
	}
	return all
}

// adapters returns the modules nested below a top-level package of the root module, which
// are published like it. The other nested modules serve the work on this one.
func adapters(t *testing.T) []goModule {
	t.Helper()
	mods := modules(t)
	tops := topLevel(mods[0].Path, listPackages(t, root(t), nil, "./..."))
	return slices.DeleteFunc(mods[1:], func(m goModule) bool {
		return !slices.Contains(tops, top(mods[0].Path, m.Path))
	})
}

// top returns the first path element of an import path below a module, such as "lru", and
// "." for the module's own path.
func top(module, path string) string {
	rel, ok := strings.CutPrefix(path, module+"/")
	if !ok {
		return "."
	}
	first, _, _ := strings.Cut(rel, "/")
	return first
}

// topLevel returns the names of the top-level packages among pkgs, sorted.
func topLevel(module string, pkgs []goPackage) []string {
	var names []string
	for _, p := range pkgs {
		if name := top(module, p.ImportPath); name != "internal" && name != "." {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// files returns the files of the repository, relative to its root and with slashes: those
// that git tracks or would track, or every file where git has nothing to say.
func files(t *testing.T) []string {
	t.Helper()
	dir := root(t)
	var all []string
	git := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	git.Dir = dir
	if out, err := git.Output(); err == nil {
		for name := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
			// A file that was deleted is tracked until that is committed.
			if info, err := os.Lstat(filepath.Join(dir, name)); err == nil && info.Mode().IsRegular() {
				all = append(all, name)
			}
		}
		return all
	}
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() && d.Name() == ".git" {
			return fs.SkipDir
		}
		if err == nil && d.Type().IsRegular() {
			all = append(all, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// write creates a file and the directories that lead to it.
func write(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, data, 0o666); err != nil {
		t.Fatal(err)
	}
}

// report fails the test with one line for each problem.
func report(t *testing.T, problems []string) {
	t.Helper()
	for _, p := range problems {
		t.Error(p)
	}
}

// wantProblems compares what a check finds in made-up input with what it must find, so that
// a check that finds nothing here cannot pass for a repository without problems.
func wantProblems(t *testing.T, got []string, want ...string) {
	t.Helper()
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got:\n\t%s\nwant:\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}
