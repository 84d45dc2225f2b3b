package repo

import (
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// mayRequire names the modules that the root's go.mod may require itself. Whatever needs
// more is a nested module.
var mayRequire = []string{
	"github.com/bits-and-blooms/bloom/v3",
	"github.com/cespare/xxhash/v2",
	"github.com/stretchr/testify", // tests only
}

// mayImport names the modules that reach a program through the root module's packages: the
// above less the test's, and what those import themselves.
var mayImport = []string{
	"github.com/bits-and-blooms/bitset", // by bloom
	"github.com/bits-and-blooms/bloom/v3",
	"github.com/cespare/xxhash/v2",
}

// Top-level packages do not import each other, so that any of them can be used, understood
// or copied without the others.
func TestImports(t *testing.T) {
	mods := modules(t)
	pkgs := listPackages(t, root(t), nil, "./...")
	for _, m := range adapters(t) {
		pkgs = append(pkgs, listPackages(t, m.Dir, nil, "./...")...)
	}
	report(t, importProblems(mods[0].Path, pkgs))
}

// importProblems names the imports that the packages of a module must not have. A top-level
// package, with the packages below it, imports nothing of the module but internal/ and
// itself. In tests too: a test that needs its neighbour cannot go where its package goes.
func importProblems(module string, pkgs []goPackage) []string {
	var problems []string
	for _, p := range pkgs {
		from := top(module, p.ImportPath)
		imports := slices.Concat(p.Imports, p.TestImports, p.XTestImports)
		if from == "internal" {
			// What all may import would lead from one package to another, but for its tests.
			imports = p.Imports
		}
		slices.Sort(imports)
		for _, imp := range slices.Compact(imports) {
			if imp != module && !strings.HasPrefix(imp, module+"/") {
				continue
			}
			if to := top(module, imp); to != from && to != "internal" {
				problems = append(problems, fmt.Sprintf("%s imports %s", p.ImportPath, imp))
			}
		}
	}
	return problems
}

func TestImportProblems(t *testing.T) {
	wantProblems(t, importProblems("m.org/x", []goPackage{
		{ImportPath: "m.org/x/a", Imports: []string{"fmt", "m.org/x/internal/i", "m.org/xy/b", "m.org/x/b"}},
		{ImportPath: "m.org/x/a/sub", Imports: []string{"m.org/x/a", "m.org/x/b/sub"}},
		{ImportPath: "m.org/x/b", Imports: []string{"m.org/x/bb"}, TestImports: []string{"m.org/x/a"}},
		{ImportPath: "m.org/x/c", XTestImports: []string{"m.org/x/a", "m.org/x/c", "m.org/x"}},
		{ImportPath: "m.org/x/internal/i", Imports: []string{"m.org/x/internal/j"}, TestImports: []string{"m.org/x/a"}},
		{ImportPath: "m.org/x/internal/j", Imports: []string{"m.org/x/a"}},
	}),
		"m.org/x/a imports m.org/x/b",
		"m.org/x/a/sub imports m.org/x/b/sub",
		"m.org/x/b imports m.org/x/a",
		"m.org/x/b imports m.org/x/bb",
		"m.org/x/c imports m.org/x",
		"m.org/x/c imports m.org/x/a",
		"m.org/x/internal/j imports m.org/x/a",
	)
}

// The root module brings its users nothing that is not on the lists above.
func TestDependencies(t *testing.T) {
	deps := listPackages(t, root(t), nil, "-deps", "./...")
	report(t, dependencyProblems(modFile(t, root(t)), deps))
}

// dependencyProblems names what a module requires, or its packages import, off the lists.
func dependencyProblems(mod goMod, deps []goPackage) []string {
	var problems []string
	for _, r := range mod.Require {
		if !r.Indirect && !slices.Contains(mayRequire, r.Path) {
			problems = append(problems, "go.mod requires "+r.Path)
		}
	}
	for _, r := range mod.Replace {
		problems = append(problems, "go.mod replaces "+r.Old.Path+", which its users would not see")
	}
	for _, tool := range mod.Tool {
		problems = append(problems, "go.mod has the tool "+tool.Path)
	}
	found := map[string]bool{}
	for _, p := range deps {
		if p.Module != nil && p.Module.Path != mod.Module.Path && !slices.Contains(mayImport, p.Module.Path) {
			found["packages depend on "+p.Module.Path] = true
		}
	}
	return slices.AppendSeq(problems, maps.Keys(found))
}

func TestDependencyProblems(t *testing.T) {
	mod := decode[goMod](t, `{
		"Module": {"Path": "m.org/x"},
		"Require": [
			{"Path": "github.com/stretchr/testify", "Version": "v1.0.0"},
			{"Path": "m.org/y", "Version": "v1.0.0"},
			{"Path": "m.org/z", "Version": "v1.0.0", "Indirect": true}
		],
		"Replace": [{"Old": {"Path": "m.org/y"}, "New": {"Path": "../y"}}],
		"Tool": [{"Path": "m.org/tool"}]
	}`)[0]
	wantProblems(t, dependencyProblems(mod, []goPackage{
		{ImportPath: "fmt", Standard: true},
		{ImportPath: "m.org/x/a", Module: &goModule{Path: "m.org/x"}},
		{ImportPath: "github.com/cespare/xxhash/v2", Module: &goModule{Path: "github.com/cespare/xxhash/v2"}},
		{ImportPath: "github.com/stretchr/testify/assert", Module: &goModule{Path: "github.com/stretchr/testify"}},
		{ImportPath: "m.org/x/nested/p", Module: &goModule{Path: "m.org/x/nested"}},
		{ImportPath: "m.org/x/nested/q", Module: &goModule{Path: "m.org/x/nested"}},
	}),
		"go.mod requires m.org/y",
		"go.mod replaces m.org/y, which its users would not see",
		"go.mod has the tool m.org/tool",
		"packages depend on github.com/stretchr/testify",
		"packages depend on m.org/x/nested",
	)
}

// A module that go.work does not use is checked by nothing, and one whose path is not its
// directory's cannot be fetched.
func TestWorkspace(t *testing.T) {
	mods := modules(t)
	used := map[string]string{}
	for _, m := range mods {
		used[m.Dir] = m.Path
	}
	for _, name := range files(t) {
		dir, base := path.Split(name)
		dir = path.Clean(dir)
		// The tools module has no packages; it only pins versions.
		if base != "go.mod" || dir == "tools" || strings.Contains(dir, "testdata") {
			continue
		}
		got, ok := used[filepath.Join(root(t), dir)]
		if !ok {
			t.Errorf("go.work does not use ./%s", dir)
		} else if want := path.Join(mods[0].Path, dir); got != want {
			t.Errorf("./%s is module %s, want %s", dir, got, want)
		}
	}
}
