package scan

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"

	"github.com/zricethezav/gitleaks/v8/config"
	"github.com/zricethezav/gitleaks/v8/sources"
	"golang.org/x/sync/errgroup"
)

const (
	stdinPath = "-"

	// chunk is how much of a file is looked at once. Each chunk begins with the last overlap bytes of the chunk before: a token
	// of 4,096 bytes has 7,300 bytes if it is encoded in base64 twice.
	chunk   = 1 << 20
	overlap = 16 << 10
)

// files reads a file, or all files below a folder but those of git.
func (f *finder) files(ctx context.Context, root string) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	var unread []error
	var problems = make(chan error)
	done := make(chan struct{})
	go func() {
		for err := range problems {
			unread = append(unread, err)
		}
		close(done)
	}()
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			problems <- err
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case entry.IsDir() && entry.Name() == ".git" && path != root:
			return fs.SkipDir
		case !entry.Type().IsRegular() && path != root || entry.IsDir():
			return nil // symbolic links, devices
		}
		group.Go(func() error {
			if err := f.file(ctx, path); err != nil {
				problems <- err
			}
			return nil
		})
		return nil
	})
	_ = group.Wait() // returns no error
	close(problems)
	<-done
	return errors.Join(append(unread, err)...)
}

func (f *finder) file(ctx context.Context, path string) error {
	file, err := os.Open(path) //nolint:gosec // the user names the files to scan
	if err != nil {
		return err
	}
	defer file.Close()
	return f.stream(ctx, filepath.ToSlash(path), file)
}

// stream reads a reader to its end.
func (f *finder) stream(ctx context.Context, name string, r io.Reader) error {
	buffer, line := make([]byte, 0, chunk), 1
	for {
		n, err := io.ReadFull(r, buffer[len(buffer):cap(buffer)])
		buffer = buffer[:len(buffer)+n]
		if n > 0 {
			f.inspect(ctx, sources.Fragment{Raw: string(buffer), FilePath: name, StartLine: line})
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return fmt.Errorf("%s: %w", name, err)
		}
		gone := len(buffer) - overlap
		line += bytes.Count(buffer[:gone], []byte("\n"))
		buffer = buffer[:copy(buffer, buffer[gone:])]
	}
}

// revisions is the form of a commit or a range of commits: no option of git.
var revisions = regexp.MustCompile(`^[0-9A-Za-z_][0-9A-Za-z_./@{}~^-]*$`)

// plainLog has git log print patches of one form, whatever the settings of the user, the attributes of files and the contents of
// files are. A patch of another form would be passed over, and what it adds would not be found.
const plainLog = "--full-history --diff-filter=tuxdb --text --root --no-color --no-textconv --no-ext-diff --no-relative " +
	"--src-prefix=a/ --dst-prefix=b/ --submodule=short --pretty=medium --date=default --no-decorate --no-notes --no-show-signature "

// history reads what the commits of a repository have added: all commits of all branches and tags, or some.
func (f *finder) history(ctx context.Context, repository, commits string) error {
	command, err := sources.NewGitLogCmdContext(ctx, repository, plainLog+cmp.Or(commits, "--all"))
	if err != nil {
		return fmt.Errorf("git log of %s: %w", repository, err)
	}
	git := &sources.Git{Cmd: command, Config: &config.Config{}, Sema: f.detector.Sema}
	var failed error
	err = git.Fragments(ctx, func(fragment sources.Fragment, err error) error {
		if err != nil {
			failed = fmt.Errorf("git log of %s failed: see the error of git above", repository)
			return nil
		}
		fragment.CommitInfo = nil // the author and the message are nobody's business
		f.inspect(ctx, fragment)
		return nil
	})
	return errors.Join(failed, err)
}

// isShallow returns whether a repository lacks older commits, as a clone with a depth does.
func isShallow(ctx context.Context, repository string) bool {
	//nolint:gosec // the user names the repositories to scan
	out, err := exec.CommandContext(ctx, "git", "-C", repository, "rev-parse", "--is-shallow-repository").Output()
	return err == nil && strings.TrimSpace(string(out)) == "true"
}
