// Package gobuild builds servers from their Go modules, and reports progress.
package gobuild

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// Program is a main package with its build settings.
type Program struct {
	Module  string // directory of the module that pins the version
	Package string
	Tags    string // build tags, separated by commas
	CGO     bool
	Output  string
}

// Build compiles a program, and writes progress to log.
func Build(ctx context.Context, p Program, log io.Writer) error {
	cgo := "CGO_ENABLED=0"
	if p.CGO {
		cgo = "CGO_ENABLED=1"
	}
	env := append(os.Environ(), cgo)
	start := time.Now()
	list := exec.CommandContext(ctx, "go", "list", "-deps", "-tags", p.Tags, p.Package)
	list.Dir, list.Env, list.Stderr = p.Module, env, os.Stderr
	out, err := list.Output()
	if err != nil {
		return fmt.Errorf("listing the packages of %s: %w", p.Package, err)
	}
	total := strings.Count(string(out), "\n")
	fmt.Fprintf(log, "  %d packages, modules downloaded after %s\n", total, time.Since(start).Round(time.Second))

	// The build writes to another name, so that an interrupted build leaves no broken binary.
	unfinished := p.Output + ".unfinished"
	cmd := exec.CommandContext(ctx, "go", "build", "-v", "-tags", p.Tags, "-trimpath", "-ldflags=-s -w", "-o", unfinished, p.Package)
	cmd.Dir, cmd.Env = p.Module, env
	progress, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	var complaints []string
	compiled, shown := 0, time.Now()
	for lines := bufio.NewScanner(progress); lines.Scan(); {
		if line := lines.Text(); strings.ContainsAny(line, " #:") {
			complaints = append(complaints, line)
		}
		compiled++
		if time.Since(shown) > 10*time.Second {
			shown = time.Now()
			fmt.Fprintf(log, "  compiled %d of at most %d packages, %s\n", compiled, total, time.Since(start).Round(time.Second))
		}
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("building %s: %w\n%s", p.Package, err, strings.Join(complaints, "\n"))
	}
	if err := os.Rename(unfinished, p.Output); err != nil {
		return err
	}
	fmt.Fprintf(log, "  done after %s\n", time.Since(start).Round(time.Second))
	return nil
}
