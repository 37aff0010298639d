// Command apitoken is the tool of security teams around a mount of API tokens.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/cmd/apitoken/internal/console"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/cmd/apitoken/internal/scan"
)

// Exit codes of all commands.
const (
	exitGood  = 0
	exitUsage = 2 // the arguments are wrong
)

// command is one of the commands of apitoken.
type command struct {
	name    string
	summary string
	run     func(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int // returns the exit code
}

// commands are in the order in which the help lists them. Each lives in a package of its name below internal.
var commands = []command{
	{"scan", "find leaked tokens in files, git histories and streams, and revoke them", scan.Run},
	{"console", "serve a web page about a mount: tokens, findings, reports", console.Run},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		usage(stderr)
		return exitUsage
	}
	if slices.Contains([]string{"help", "-h", "-help", "--help"}, args[0]) {
		usage(stdout)
		return exitGood
	}
	for _, c := range commands {
		if c.name == args[0] {
			return c.run(ctx, args[1:], stdin, stdout, stderr)
		}
	}
	fmt.Fprintf(stderr, "%q is not a command of apitoken; commands are %s\n", args[0], strings.Join(names(), ", "))
	return exitUsage
}

func usage(w io.Writer) {
	fmt.Fprintln(w, "Usage: apitoken COMMAND [FLAGS] [ARGUMENTS]")
	fmt.Fprintln(w)
	for _, c := range commands {
		fmt.Fprintf(w, "  %-10s %s\n", c.name, c.summary)
	}
	fmt.Fprintln(w)
	fmt.Fprintln(w, `"apitoken COMMAND -help" lists the flags of a command.`)
}

func names() []string {
	all := make([]string, 0, len(commands))
	for _, c := range commands {
		all = append(all, c.name)
	}
	return all
}
