package repo

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Every package, and everything it exports, is documented.
func TestComments(t *testing.T) {
	for _, m := range modules(t) {
		for _, p := range listPackages(t, m.Dir, nil, "./...") {
			if p.Name == "main" {
				continue
			}
			// Files for other platforms are documented like the rest.
			names := slices.Concat(p.GoFiles, p.CgoFiles, p.IgnoredGoFiles)
			fset := token.NewFileSet()
			var parsed []*ast.File
			for _, name := range names {
				if strings.HasSuffix(name, "_test.go") {
					continue
				}
				f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.ParseComments|parser.SkipObjectResolution)
				if err != nil {
					t.Fatal(err)
				}
				if f.Name.Name == p.Name { // not a generator's package main
					parsed = append(parsed, f)
				}
			}
			if len(parsed) == 0 {
				continue // tests only
			}
			for _, problem := range commentProblems(p.Name, parsed) {
				t.Errorf("%s: %s", p.ImportPath, problem)
			}
		}
	}
}

// commentProblems names what the files of a package export without a comment, or with one
// that does not start with the name. It is stricter than the usual linters in two ways:
// fields of structs and methods of interfaces count, and nothing is let off for being
// obvious. A comment behind a line, or one above a group of constants or variables, may
// start as it likes.
func commentProblems(pkg string, files []*ast.File) []string {
	c := &commentChecker{}
	documented := false
	for _, f := range files {
		if f.Doc != nil {
			documented = true
			if !strings.HasPrefix(f.Doc.Text(), "Package "+pkg+" ") {
				c.addf("the package comment does not start with %q", "Package "+pkg)
			}
		}
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				c.function(d)
			case *ast.GenDecl:
				c.declaration(d)
			}
		}
	}
	if !documented {
		c.addf("no package comment")
	}
	return c.problems
}

type commentChecker struct{ problems []string }

func (c *commentChecker) addf(format string, args ...any) {
	c.problems = append(c.problems, fmt.Sprintf(format, args...))
}

// named checks the comment above something called name; prefix says where it belongs.
func (c *commentChecker) named(doc *ast.CommentGroup, prefix, name string) {
	switch text := doc.Text(); {
	case text == "":
		c.addf("%s%s has no comment", prefix, name)
	case !startsWithName(text, name):
		c.addf("the comment of %s%s does not start with its name", prefix, name)
	}
}

// startsWithName reports whether text starts with name as a whole word, perhaps after an
// article.
func startsWithName(text, name string) bool {
	return strings.HasPrefix(text, "Deprecated: ") ||
		regexp.MustCompile(`^((A|An|The) )?`+regexp.QuoteMeta(name)+`\b`).MatchString(text)
}

func (c *commentChecker) function(d *ast.FuncDecl) {
	if !d.Name.IsExported() {
		return
	}
	prefix := ""
	if d.Recv != nil {
		recv := receiver(d.Recv.List[0].Type)
		if !ast.IsExported(recv) {
			return // no name that a user could write
		}
		prefix = recv + "."
	}
	c.named(d.Doc, prefix, d.Name.Name)
}

// receiver returns the name of a receiver's type, without pointer and type parameters.
func receiver(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.ParenExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.IndexListExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}

func (c *commentChecker) declaration(d *ast.GenDecl) {
	group := d.Lparen.IsValid()
	for _, s := range d.Specs {
		switch s := s.(type) {
		case *ast.TypeSpec:
			if !s.Name.IsExported() {
				continue
			}
			doc := s.Doc
			if !group {
				doc = d.Doc
			}
			c.named(doc, "", s.Name.Name)
			c.members(s.Name.Name+".", s.Type)
		case *ast.ValueSpec:
			for _, name := range s.Names {
				switch {
				case !name.IsExported():
				case !group:
					c.named(d.Doc, "", name.Name)
				case s.Doc.Text() != "" && len(s.Names) == 1:
					c.named(s.Doc, "", name.Name)
				case s.Doc.Text()+s.Comment.Text()+d.Doc.Text() == "":
					c.addf("%s has no comment", name.Name)
				}
			}
		}
	}
}

// members checks the fields of a struct or the methods of an interface. What is embedded is
// documented where it is declared.
func (c *commentChecker) members(prefix string, e ast.Expr) {
	var fields *ast.FieldList
	switch e := e.(type) {
	case *ast.StructType:
		fields = e.Fields
	case *ast.InterfaceType:
		fields = e.Methods
	default:
		return
	}
	for _, f := range fields.List {
		for _, name := range f.Names {
			if !name.IsExported() {
				continue
			}
			if f.Doc.Text() != "" && len(f.Names) == 1 || f.Comment.Text() == "" && f.Doc.Text() == "" {
				c.named(f.Doc, prefix, name.Name)
			}
			c.members(prefix+name.Name+".", f.Type)
		}
	}
}

func TestCommentProblems(t *testing.T) {
	const source = `
package p

// Good is a type.
type Good[K any] struct {
	// Field is a field.
	Field int
	Line  int // behind the line
	// Both are two fields.
	A, B int
	Bare int
	// It is a field.
	Wrong int
	// Deep is a struct.
	Deep struct {
		Inner int
	}
	hidden int
	Bad // embedded
}

type Bad interface {
	// Method does.
	Method()
	Silent()
}

//go:noinline
func Directive() {}

// Fine is a function.
func Fine() {}

// Finesse is another.
func Fin() {}

// A Noun is a type.
type Noun int

// Deprecated: use Noun.
type Old int

func (*Good[K]) Do() {}

// do is a method.
func (Noun) Do() {}

func (hidden) Do() {}

type hidden int

// The sizes.
const (
	Small = iota
	Large
	// It is a size.
	Huge
)

const (
	One = 1 // the first
	Two = 2
)

var Alone, hiding = 1, 2

type (
	// Grouped is a type.
	Grouped int
	Lost    int
)
`
	parse := func(src string) *ast.File {
		f, err := parser.ParseFile(token.NewFileSet(), "p.go", src, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	wantProblems(t, commentProblems("p", []*ast.File{parse(source)}),
		"no package comment",
		"Good.Bare has no comment",
		"the comment of Good.Wrong does not start with its name",
		"Good.Deep.Inner has no comment",
		"Bad has no comment",
		"Bad.Silent has no comment",
		"Directive has no comment",
		"the comment of Fin does not start with its name",
		"Good.Do has no comment",
		"the comment of Noun.Do does not start with its name",
		"the comment of Huge does not start with its name",
		"Two has no comment",
		"Alone has no comment",
		"Lost has no comment",
	)
	wantProblems(t, commentProblems("p", []*ast.File{parse("// Package p is good.\npackage p"), parse("package p")}))
	wantProblems(t, commentProblems("p", []*ast.File{parse("// Nothing.\npackage p")}),
		`the package comment does not start with "Package p"`)
}
