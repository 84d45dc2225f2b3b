package cli_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sysblocks/sysblocks/examples/internal/cli"
	"github.com/sysblocks/sysblocks/examples/internal/clitest"
)

// end returns what End does.
func end(err error) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = cli.End("name", err, &out, &errs)
	return code, out.String(), errs.String()
}

func TestParse(t *testing.T) {
	parse := func(args ...string) (n int, rest []string, given map[string]bool, err error) {
		flags := flag.NewFlagSet("name", flag.ContinueOnError)
		flags.IntVar(&n, "n", 5, "the `NUMBER`")
		flags.Bool("b", false, "whether")
		given, err = cli.Parse(flags, "What it does.\n\n", args)
		return n, flags.Args(), given, err
	}
	n, rest, given, err := parse("-n", "7", "more")
	require.NoError(t, err)
	require.Equal(t, 7, n)
	require.Equal(t, []string{"more"}, rest)
	require.Equal(t, map[string]bool{"n": true}, given)

	for _, arg := range []string{"-h", "-help", "--help"} {
		_, _, _, err = parse(arg, "-n=x")
		code, stdout, stderr := end(cli.Usage(err))
		require.Zero(t, code)
		require.Empty(t, stderr)
		require.Equal(t, "What it does.\n\n  -b\twhether\n  -n NUMBER\n    \tthe NUMBER (default 5)\n", stdout)
	}
	require.Equal(t, 1, cli.End("name", err, clitest.Full{}, new(bytes.Buffer)))

	_, _, _, err = parse("-n=x")
	code, stdout, stderr := end(err)
	require.Equal(t, 2, code)
	require.Empty(t, stdout)
	require.Equal(t, "name: invalid value \"x\" for flag -n: parse error (see -help)\n", stderr)
}

func TestEnd(t *testing.T) {
	plain := fmt.Errorf("file: %w", fs.ErrNotExist)
	for _, x := range []struct {
		err    error
		code   int
		stderr string
	}{
		{nil, 0, ""},
		{cli.Usage(nil), 0, ""},
		{cli.Input(nil), 0, ""},
		{cli.Without("file: ", nil), 0, ""},
		{plain, 1, "name: file: file does not exist\n"},
		{cli.Input(plain), 2, "name: file: file does not exist\n"},
		{cli.Usage(plain), 2, "name: file: file does not exist (see -help)\n"},
		{cli.Usagef("-n: %w", plain), 2, "name: -n: file: file does not exist (see -help)\n"},
		{cli.Usage(cli.Input(plain)), 2, "name: file: file does not exist\n"},
		{cli.Input(cli.Usage(plain)), 2, "name: file: file does not exist (see -help)\n"},
		{fmt.Errorf("more: %w", cli.Usage(plain)), 2, "name: more: file: file does not exist (see -help)\n"},
		{cli.Without("file: ", cli.Usage(plain)), 2, "name: file does not exist (see -help)\n"},
		{errors.Join(plain, errors.New("and more")), 1, "name: file: file does not exist\nname: and more\n"},
	} {
		code, stdout, stderr := end(x.err)
		require.Equal(t, x.code, code, "%v", x.err)
		require.Equal(t, x.stderr, stderr)
		require.Empty(t, stdout)
		require.Equal(t, code != 0, errors.Is(x.err, fs.ErrNotExist), "%v", x.err)
	}
}
