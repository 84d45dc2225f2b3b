package main

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// What is wrong with a config is said with its place: the file, the line, the route or pool, and the
// field. A place is a path from the top of the file, of the names of fields and the indices in lists.

var (
	typeError    = regexp.MustCompile(`^line (\d+): (.*)$`)
	unknownField = regexp.MustCompile(`^field (.*) not found in type main\.(\w+)$`)
	badValue     = regexp.MustCompile("^cannot unmarshal (!!\\w+)( `(.*)`)? into (.*)$")
	goNames      = regexp.MustCompile(`\s*(in type|into) .*$`)
)

// yamlError says with the names of the file what the decoder says with those of Go.
func (c *config) yamlError(err error) error {
	var te *yaml.TypeError
	if !errors.As(err, &te) {
		return fmt.Errorf("%s: %s", c.file, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	var errs []error
	for _, e := range te.Errors {
		m := typeError.FindStringSubmatch(e)
		if m == nil {
			errs = append(errs, fmt.Errorf("%s: %s", c.file, e))
			continue
		}
		line, _ := strconv.Atoi(m[1])
		what := m[2]
		if u := unknownField.FindStringSubmatch(what); u != nil {
			at := c.pathAt(line, func(key, _ *yaml.Node) bool { return key != nil && key.Value == u[1] })
			what = fmt.Sprintf("%sunknown field %q", c.describe(at[:max(len(at)-1, 0)]), u[1])
		} else if b := badValue.FindStringSubmatch(what); b != nil {
			at := c.pathAt(line, func(_, value *yaml.Node) bool {
				return value.ShortTag() == b[1] && strings.HasPrefix(value.Value, strings.TrimSuffix(b[3], "..."))
			})
			got := b[3]
			if b[2] == "" {
				got = strings.TrimPrefix(b[1], "!!")
			}
			what = fmt.Sprintf("%smust be %s, got %s", c.describe(at), kinds(b[4]), got)
		} else {
			what = goNames.ReplaceAllString(what, "")
		}
		errs = append(errs, fmt.Errorf("%s:%d: %s", c.file, line, what))
	}
	return errors.Join(errs...)
}

// kinds says what a Go type is in YAML.
func kinds(goType string) string {
	switch {
	case goType == "time.Duration":
		return "a duration such as 250ms"
	case strings.HasPrefix(goType, "uint"):
		return "a whole number of at least 0, and not too large"
	case strings.HasPrefix(goType, "int"):
		return "a whole number"
	case strings.HasPrefix(goType, "float"):
		return "a number"
	case goType == "bool":
		return "true or false"
	case goType == "string":
		return "text"
	case strings.HasPrefix(goType, "[]"):
		return "a list"
	}
	return "a mapping"
}

// pathAt returns the path of the node in that line for which is returns true, given its key, if it
// has one; or of the first in that line.
func (c *config) pathAt(line int, is func(key, value *yaml.Node) bool) []any {
	var found, first []any
	c.walk(func(key, value *yaml.Node, at []any) {
		on := value.Line
		if key != nil {
			on = key.Line
		}
		if first == nil && on == line {
			first = at
		}
		if found == nil && (on == line || value.Line == line) && is(key, value) {
			found = at
		}
	})
	if found == nil {
		return first
	}
	return found
}

// walk calls visit for each node below the top, with its key, if it has one, and its path.
func (c *config) walk(visit func(key, value *yaml.Node, at []any)) {
	var walk func(n *yaml.Node, at []any)
	walk = func(n *yaml.Node, at []any) {
		each := func(key, value *yaml.Node, at []any) {
			visit(key, value, at)
			walk(value, at)
		}
		switch n.Kind {
		case yaml.DocumentNode:
			walk(n.Content[0], at)
		case yaml.SequenceNode:
			for i, v := range n.Content {
				each(nil, v, append(slices.Clip(at), i))
			}
		case yaml.MappingNode:
			for i := 0; i+1 < len(n.Content); i += 2 {
				each(n.Content[i], n.Content[i+1], append(slices.Clip(at), n.Content[i].Value))
			}
		}
	}
	walk(c.root, nil)
}

// lookup returns the node at a path, or the nearest one above it, and its key.
func (c *config) lookup(at ...any) (key, value *yaml.Node) {
	n := c.root
	if n.Kind == yaml.DocumentNode {
		n = n.Content[0]
	}
	key = n
	for _, step := range at {
		k, v := child(n, step)
		if v == nil {
			return key, n
		}
		key, n = k, v
	}
	return key, n
}

func child(n *yaml.Node, step any) (key, value *yaml.Node) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	switch step := step.(type) {
	case int:
		if n.Kind == yaml.SequenceNode && step < len(n.Content) {
			return n.Content[step], n.Content[step]
		}
	case string:
		for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == step {
				return n.Content[i], n.Content[i+1]
			}
		}
	}
	return nil, nil
}

// describe returns a path as people say it: `route "orders": retries.tries `.
func (c *config) describe(at []any) string {
	var b strings.Builder
	rest := at
	if len(at) >= 2 {
		switch at[0] {
		case "routes":
			_, name := c.lookup(at[0], at[1], "name")
			if name.Kind == yaml.ScalarNode {
				fmt.Fprintf(&b, "route %q: ", name.Value)
			} else {
				fmt.Fprintf(&b, "routes[%d]: ", at[1])
			}
			rest = at[2:]
		case "pools":
			fmt.Fprintf(&b, "pool %q: ", at[1])
			rest = at[2:]
		}
	}
	for i, step := range rest {
		switch step := step.(type) {
		case int:
			fmt.Fprintf(&b, "[%d]", step)
		default:
			if i > 0 {
				b.WriteByte('.')
			}
			fmt.Fprint(&b, step)
		}
	}
	if len(rest) > 0 {
		b.WriteByte(' ')
	}
	return b.String()
}

// errorAt returns an error that names file, line, route or pool, and field.
func (c *config) errorAt(at []any, format string, args ...any) error {
	key, _ := c.lookup(at...)
	return fmt.Errorf("%s:%d: %s%w", c.file, key.Line, c.describe(at), fmt.Errorf(format, args...))
}

var libraryField = regexp.MustCompile(`^[\w/]+: ([A-Z][\w.]*) (must .*)$`)

// libraryError is errorAt for what a constructor says of a field: below at, it has the same name in
// the file, in another case.
func (c *config) libraryError(at []any, err error) error {
	m := libraryField.FindStringSubmatch(err.Error())
	if m == nil {
		return c.errorAt(at, "%w", err)
	}
	for name := range strings.SplitSeq(m[1], ".") {
		step := snake(name)
		if _, v := c.lookup(at...); v.Kind == yaml.MappingNode {
			if _, x := child(v, step); x != nil {
				at = append(slices.Clip(at), step)
				continue
			}
		}
		return c.errorAt(at, "%w", err)
	}
	return c.errorAt(at, "%s", m[2])
}

func snake(s string) string {
	return strings.ToLower(regexp.MustCompile(`([a-z])([A-Z])`).ReplaceAllString(s, "${1}_${2}"))
}
