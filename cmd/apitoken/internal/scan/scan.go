// Package scan is the command "apitoken scan": it finds tokens in files, in the history of a git repository or in a stream, asks
// the mount what they are, and revokes them on request. No output has a whole token.
package scan

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/rs/zerolog"
	"github.com/zricethezav/gitleaks/v8/logging"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// Exit codes.
const (
	exitNone  = 0 // no token, or only tokens that the mount calls dead
	exitFound = 1
	exitError = 2 // the arguments are wrong, or something could not be read or asked
)

// options are the arguments.
type options struct {
	paths    []string
	dashed   bool // -- ends the flags: a path may begin with -
	git      bool
	commits  string
	format   string
	prefixes []string // nil: any
	decode   int
	mount    string
	offline  bool
	revoke   bool
}

const usage = `Usage: apitoken scan [FLAGS] PATH...
       apitoken scan [FLAGS] -git [REPOSITORY...]
       apitoken scan [FLAGS] -

Finds API tokens in files and folders, in the history of git repositories, or in standard input. With VAULT_ADDR and VAULT_TOKEN
set, the command asks the mount what each token is. Otherwise it checks the checksum of opaque tokens only.

Exit codes: 0 no token was found, or only tokens that the mount calls dead; 1 tokens were found; 2 an error.

Flags:
`

// Run runs the command, and returns the exit code.
func Run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	stdout, stderr = redacted{stdout}, redacted{stderr}
	o, err := parse(args, stdout, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return exitNone
	}
	if err != nil {
		fmt.Fprintln(stderr, "apitoken scan:", err)
		return exitError
	}
	var mount *mount
	if !o.offline && (o.revoke || os.Getenv("VAULT_TOKEN") != "") {
		if mount, err = newMount(o.mount); err != nil {
			fmt.Fprintln(stderr, "apitoken scan:", err)
			return exitError
		}
	}
	// At lower levels the detector logs what it finds.
	logging.Logger = zerolog.New(zerolog.ConsoleWriter{Out: stderr, NoColor: true, PartsExclude: []string{"time", "level"}}).
		Level(zerolog.ErrorLevel)
	found, err := o.run(ctx, stdin, mount)
	o.warn(ctx, stderr)
	if o.format == formatSARIF {
		err = errors.Join(err, writeSARIF(stdout, found))
	} else {
		err = errors.Join(err, writeText(stdout, found))
		if err == nil || len(found) > 0 { // what could not be read may have tokens
			fmt.Fprintln(stderr, summary(found))
		}
	}
	if err != nil {
		fmt.Fprintln(stderr, "apitoken scan:", err)
		return exitError
	}
	for _, f := range found {
		if f.counts() {
			return exitFound
		}
	}
	return exitNone
}

// maxDecode is the largest value of -decode.
const maxDecode = 5

// Formats of the output.
const (
	formatText  = "text"
	formatSARIF = "sarif"
)

func parse(args []string, stdout, stderr io.Writer) (*options, error) {
	o := &options{}
	var prefixes string
	flags := flag.NewFlagSet("scan", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.BoolVar(&o.git, "git", false, "scan the history of git repositories, by default of the current folder")
	flags.StringVar(&o.commits, "commits", "", "commits to scan with -git, such as origin/main..HEAD; default: all of all branches")
	flags.StringVar(&o.format, "format", formatText, "text or sarif")
	flags.StringVar(&prefixes, "prefix", "apt", `prefixes of opaque tokens, separated by commas; "any" finds all, and is slower`)
	flags.IntVar(&o.decode, "decode", 2, "how often to decode base64, hexadecimal and percent-encoding, 0 to 5; 0 is several times faster")
	flags.StringVar(&o.mount, "mount", "apitoken", "path of the engine in Vault")
	flags.BoolVar(&o.offline, "offline", false, "do not ask the mount")
	flags.BoolVar(&o.revoke, "revoke", false, "revoke the tokens that are found, with their grants")
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, usage)
		flags.SetOutput(stdout)
		flags.PrintDefaults()
		return nil, err
	}
	if err != nil {
		return nil, err
	}
	o.paths = flags.Args()
	before := len(args) - len(o.paths)
	o.dashed = before > 0 && args[before-1] == "--"
	if o.git && len(o.paths) == 0 {
		o.paths = []string{"."}
	}
	if prefixes != "any" {
		o.prefixes = strings.Split(prefixes, ",")
	}
	return o, o.check()
}

func (o *options) check() error {
	switch {
	case len(o.paths) == 0:
		return errors.New("give paths to scan, -git, or - for standard input; see -help")
	case o.format != formatText && o.format != formatSARIF:
		return fmt.Errorf("-format: %q is not %s or %s", o.format, formatText, formatSARIF)
	case o.commits != "" && !o.git:
		return errors.New("-commits: is only for -git")
	case o.commits != "" && !revisions.MatchString(o.commits):
		return fmt.Errorf(`-commits: %q is not a range of commits such as "origin/main..HEAD"`, o.commits)
	case o.decode < 0 || o.decode > maxDecode:
		return fmt.Errorf("-decode: must be between 0 and %d", maxDecode)
	case o.revoke && o.offline:
		return errors.New("-revoke: needs the mount, which -offline leaves out")
	}
	for _, path := range o.paths {
		if path == stdinPath && (o.git || len(o.paths) > 1) {
			return errors.New("- stands for standard input, and for nothing beside it")
		}
		if strings.HasPrefix(path, "-") && path != stdinPath && !o.dashed {
			return fmt.Errorf("%q comes after a path: give flags first; a path that begins with - is ./%s", path, path)
		}
	}
	for _, prefix := range o.prefixes {
		if err := token.CheckPrefix(prefix); err != nil {
			return fmt.Errorf("-prefix: %q %w", prefix, err)
		}
	}
	return nil
}

// warn tells of repositories whose older commits could not be scanned. They are not an error: a range of commits may be complete.
func (o *options) warn(ctx context.Context, stderr io.Writer) {
	for _, path := range o.paths {
		if o.git && isShallow(ctx, path) {
			fmt.Fprintf(stderr, "apitoken scan: warning: %s is a shallow clone, and its older commits were not scanned: "+
				"\"git fetch --unshallow\" gets them\n", path)
		}
	}
}

// run scans, asks the mount, and revokes. It returns what was found also if there is an error. A nil mount is not asked.
func (o *options) run(ctx context.Context, stdin io.Reader, m *mount) ([]*finding, error) {
	f := newFinder(ctx, o.prefixes, o.decode)
	var failed error
	for _, path := range o.paths {
		var err error
		switch {
		case o.git:
			err = f.history(ctx, path, o.commits)
		case path == stdinPath:
			err = f.stream(ctx, "stdin", stdin)
		default:
			err = f.files(ctx, path)
		}
		failed = errors.Join(failed, err)
	}
	found := f.sorted()
	if m != nil && os.Getenv("VAULT_TOKEN") != "" {
		failed = errors.Join(failed, m.lookUp(ctx, found))
	}
	if m != nil && o.revoke {
		failed = errors.Join(failed, m.revoke(ctx, found))
	}
	return found, failed
}
