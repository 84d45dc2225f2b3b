// Package cli is how the commands of the examples take their flags, and how they end: with 0 after success or -help,
// with 2 after bad input, and with 1 if something else fails; and with one message that says why.
//
//	func run(args []string, stdout, stderr io.Writer) int {
//		s, err := parse(args)
//		if err == nil {
//			err = s.run(stdout)
//		}
//		return cli.End("example", err, stdout, stderr)
//	}
package cli

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
)

// Parse parses flags, and returns the names of those that are given. Its error is a Usage, or what has End print the help:
// usage, and all flags.
func Parse(flags *flag.FlagSet, usage string, args []string) (given map[string]bool, err error) {
	flags.SetOutput(io.Discard) // the error says it all in one line
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		var text strings.Builder
		text.WriteString(usage)
		flags.SetOutput(&text)
		flags.PrintDefaults()
		return nil, help(text.String())
	case err != nil:
		return nil, Usage(err)
	}
	given = make(map[string]bool)
	flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
	return given, nil
}

// help is what was asked for.
type help string

func (help) Error() string { return "help is asked for" }

// bad is an error of what the user has given.
type bad struct {
	error
	hint string
}

func (b bad) Unwrap() error { return b.error }

// Usage returns err, if it is none already, as an error of the command line. End says where to read about that, and returns
// 2.
func Usage(err error) error {
	if err == nil || errors.As(err, new(bad)) || errors.As(err, new(help)) {
		return err
	}
	return bad{err, " (see -help)"}
}

// Usagef returns a Usage of the error that fmt.Errorf returns.
func Usagef(format string, args ...any) error { return Usage(fmt.Errorf(format, args...)) }

// Input returns err, if it is none already, as an error of a file that was given. End returns 2.
func Input(err error) error {
	if err == nil || errors.As(err, new(bad)) {
		return err
	}
	return bad{err, ""}
}

// Without returns err with a text that leaves out what those who use the command need not know, such as the name of the
// package that it comes from.
func Without(what string, err error) error {
	if err == nil {
		return nil
	}
	return without{err, what}
}

type without struct {
	error
	what string
}

func (w without) Error() string { return strings.ReplaceAll(w.error.Error(), w.what, "") }

func (w without) Unwrap() error { return w.error }

// End says how a command ends that has come to err, and returns the code to exit with. Each line of what it writes to
// stderr begins with the command's name.
func End(name string, err error, stdout, stderr io.Writer) int {
	var text help
	if errors.As(err, &text) {
		if _, err = io.WriteString(stdout, string(text)); err != nil {
			err = fmt.Errorf("the help cannot be written: %w", err)
		}
	}
	if err == nil {
		return 0
	}
	code, hint := 1, ""
	var b bad
	if errors.As(err, &b) {
		code, hint = 2, b.hint
	}
	for line := range strings.SplitSeq(err.Error()+hint, "\n") {
		fmt.Fprintf(stderr, "%s: %s\n", name, line)
	}
	return code
}
