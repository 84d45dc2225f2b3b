package repo

import (
	"archive/zip"
	"bytes"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// proxy is a module proxy in a directory, which the go command reads as a file:// URL. See
// https://go.dev/ref/mod#goproxy-protocol.
type proxy struct{ dir string }

// add publishes the module in the checkout's directory rel under a version, packed by the
// rules of https://go.dev/ref/mod#zip-files.
func (p proxy) add(t *testing.T, module, rel, version string) {
	t.Helper()
	all := files(t)
	var nested []string
	for _, name := range all {
		if dir := path.Dir(name); path.Base(name) == "go.mod" && dir != path.Clean(rel) {
			nested = append(nested, dir+"/")
		}
	}
	var packed bytes.Buffer
	z := zip.NewWriter(&packed)
	for _, name := range all {
		in := name
		if rel != "." {
			var ok bool
			if in, ok = strings.CutPrefix(name, rel+"/"); !ok {
				continue
			}
		}
		if slices.ContainsFunc(nested, func(dir string) bool {
			// A module around this one does not take its files away.
			return strings.HasPrefix(name, dir) && !strings.HasPrefix(rel+"/", dir)
		}) {
			continue
		}
		data, err := os.ReadFile(filepath.Join(root(t), name))
		if err != nil {
			t.Fatal(err)
		}
		w, err := z.Create(module + "@" + version + "/" + in)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	mod, err := os.ReadFile(filepath.Join(root(t), rel, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	base := filepath.Join(p.dir, escape(module), "@v")
	write(t, filepath.Join(base, "list"), []byte(version+"\n"))
	write(t, filepath.Join(base, version+".info"), fmt.Appendf(nil, `{"Version":%q}`, version))
	write(t, filepath.Join(base, version+".mod"), mod)
	write(t, filepath.Join(base, version+".zip"), packed.Bytes())
}

// escape writes capitals as "!" and the small letter, for file systems that confuse them.
func escape(module string) string {
	var b strings.Builder
	for _, r := range module {
		if unicode.IsUpper(r) {
			b.WriteByte('!')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// stranger is a new module, somewhere else, whose go command has an empty module cache and
// knows the network only as this proxy.
type stranger struct {
	dir string
	env []string
}

func newStranger(t *testing.T, p proxy) stranger {
	t.Helper()
	host := func(name string) string {
		return strings.TrimSpace(run(t, root(t), nil, "go", "env", name))
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "go.mod"), []byte("module stranger\n\ngo 1.26.0\n"))
	return stranger{dir, []string{
		// What others have published is taken from the module cache of this machine, where
		// building the packages under test has put it.
		"GOPROXY=file://" + p.dir + ",file://" + filepath.Join(host("GOMODCACHE"), "cache", "download"),
		"GOMODCACHE=" + t.TempDir(),
		// The module cache can be removed, and where it was is not in what is compiled, so that what is the same for
		// several strangers is compiled once.
		"GOFLAGS=-mod=mod -modcacherw -trimpath",
		"GOCACHE=" + host("GOCACHE"),
		"GOENV=off", "GOSUMDB=off", "GOTOOLCHAIN=local",
		"GOPRIVATE=", "GONOPROXY=", "GONOSUMDB=",
	}}
}

func (s stranger) run(t *testing.T, name string, args ...string) string {
	t.Helper()
	return run(t, s.dir, s.env, name, args...)
}

// Who fetches a package of the root module can run the README's program for it, and gets
// nothing else than what that package imports.
func TestGoGet(t *testing.T) {
	const version = "v0.1.0"
	mod := modFile(t, root(t)).Module.Path
	p := proxy{t.TempDir()}
	p.add(t, mod, ".", version)
	covered := map[string]bool{}
	found, _ := programs(readme(t))
	for _, prog := range found {
		s := newStranger(t, p)
		write(t, filepath.Join(s.dir, "main.go"), []byte(prog.source))
		imported := regexp.MustCompile(`"`+regexp.QuoteMeta(mod)+`/([^"/]+)[^"]*"`).FindAllStringSubmatch(prog.source, -1)
		if len(imported) == 0 {
			t.Errorf("README.md:%d: the program imports nothing of %s", prog.line, mod)
		}
		for _, m := range imported {
			covered[m[1]] = true
			s.run(t, "go", "get", strings.Trim(m[0], `"`)+"@"+version)
		}
		if got := s.run(t, "go", "run", "."); got != prog.output {
			t.Errorf("README.md:%d: the program prints:\n%s\nwant:\n%s", prog.line, got, prog.output)
		}

		used := map[string]bool{}
		for _, dep := range listPackages(t, s.dir, s.env, "-deps", ".") {
			switch {
			case dep.Standard || dep.Module.Path == "stranger":
			case dep.Module.Path == mod || slices.Contains(mayImport, dep.Module.Path):
				used[dep.Module.Path] = true
			default:
				t.Errorf("README.md:%d: the program depends on %s", prog.line, dep.ImportPath)
			}
		}
		for _, r := range modFile(t, s.dir).Require {
			if r.Indirect == (r.Path == mod) || !used[r.Path] {
				t.Errorf("README.md:%d: go.mod gained %+v", prog.line, r)
			}
			delete(used, r.Path)
		}
		if len(used) > 0 {
			t.Errorf("README.md:%d: go.mod lacks %v", prog.line, used)
		}
	}
	for _, name := range topLevel(mod, listPackages(t, root(t), nil, "./...")) {
		if !covered[name] {
			t.Errorf("README.md has no program that imports %s", name)
		}
	}
}

// Each nested module that is published can be fetched too: its replace directive, which
// points into the checkout, means nothing to its users, so the version of the root module
// that it requires has to be a real one.
func TestGoGetAdapters(t *testing.T) {
	mod := modFile(t, root(t)).Module.Path
	for _, m := range adapters(t) {
		checkAdapter(t, mod, m)
	}
}

func checkAdapter(t *testing.T, mod string, m goModule) {
	t.Helper()
	i := slices.IndexFunc(modFile(t, m.Dir).Require, func(r struct {
		Path, Version string
		Indirect      bool
	}) bool {
		return r.Path == mod
	})
	if i < 0 {
		t.Errorf("%s does not require %s", m.Path, mod)
		return
	}
	version := modFile(t, m.Dir).Require[i].Version
	if version == "v0.0.0" || !regexp.MustCompile(`^v\d+\.\d+\.\d+$`).MatchString(version) {
		t.Errorf("%s requires %s %s, want the version that will be tagged", m.Path, mod, version)
		return
	}
	p := proxy{t.TempDir()}
	p.add(t, mod, ".", version)
	p.add(t, m.Path, strings.TrimPrefix(m.Path, mod+"/"), version)

	s := newStranger(t, p)
	program := "package main\n\nimport (\n"
	for _, pkg := range listPackages(t, m.Dir, nil, "./...") {
		if pkg.Name != "main" && len(pkg.GoFiles) > 0 && !strings.Contains(pkg.ImportPath, "/internal") {
			program += fmt.Sprintf("\t_ %q\n", pkg.ImportPath)
		}
	}
	write(t, filepath.Join(s.dir, "main.go"), []byte(program+")\n\nfunc main() {}\n"))
	s.run(t, "go", "get", m.Path+"@"+version)
	s.run(t, "go", "run", ".")
	for _, r := range modFile(t, s.dir).Require {
		if r.Indirect == (r.Path == m.Path) {
			t.Errorf("%s: go.mod gained %+v", m.Path, r)
		}
	}
}
