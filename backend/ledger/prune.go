package ledger

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// Prune drops expired values, and rewrites each file of this writer that contains one. It deletes a file of a former
// writer if all values of the file have expired. It also deletes an old file of a former writer, and first copies the
// values to the files of this writer.
func (ps *pages[V]) Prune(ctx context.Context, s logical.Storage, now time.Time) error {
	left := takeOvers
	others := sync.OnceValues(func() (map[int][]string, error) { return ps.others(ctx, s) })
	for number, p := range ps.touched() {
		if err := ps.prunePage(ctx, s, number, p, others, &left, now); err != nil {
			return err
		}
	}
	return nil
}

// others returns the files of other writers in storage, by the number of their page.
func (ps *pages[V]) others(ctx context.Context, s logical.Storage) (map[int][]string, error) {
	names, err := s.List(ctx, ps.prefix)
	if err != nil {
		return nil, err
	}
	others := make(map[int][]string)
	for _, name := range names {
		if number, ok := pageOf(name); ok && !strings.HasSuffix(name, ps.writer) {
			others[number] = append(others[number], name)
		}
	}
	return others, nil
}

func (ps *pages[V]) prunePage(ctx context.Context, s logical.Storage, number int, p *page[V], others func() (map[int][]string, error), left *int, now time.Time) error {
	p.writing.Lock()
	defer p.writing.Unlock()
	if len(p.entries) == 0 && len(p.files) == 0 { // this and the next early return only save work
		return nil
	}
	if p.over(now) { // in memory: another writer may have renewed the token since
		names, err := others()
		if err != nil {
			return err
		}
		for _, name := range names[number] {
			if _, err := ps.read(ctx, s, p, name, now); err != nil {
				return err
			}
		}
	}
	rewrite, done, err := ps.outdated(ctx, s, p, left, now)
	if err != nil {
		return err
	}
	if !p.over(now) && len(rewrite) == 0 && len(done) == 0 {
		return nil
	}
	entries := p.remaining(now)
	if len(rewrite) == 0 {
		p.show(entries)
	}
	for name := range rewrite {
		if err := ps.store(ctx, s, p, name, entries, now); err != nil {
			return err
		}
	}
	for _, name := range done {
		if err := s.Delete(ctx, ps.prefix+name); err != nil {
			return err
		}
		p.forget(name)
	}
	return nil
}

// outdated returns the files of this writer to rewrite, and the former files to delete after that. The caller holds
// writing.
func (ps *pages[V]) outdated(ctx context.Context, s logical.Storage, p *page[V], left *int, now time.Time) (rewrite map[string]bool, done []string, _ error) {
	values := len(p.entries)
	rewrite = make(map[string]bool)
	for name, f := range p.files {
		if !ps.isFormer(name, values) {
			if !lasts(f.from, now) {
				rewrite[name] = true
			}
			continue
		}
		if !f.disposable(now, *left) {
			continue
		}
		// Another process may have written the file since: a process that has lost leadership may go on writing.
		lasting, err := ps.read(ctx, s, p, name, now)
		if err != nil {
			return nil, nil, err
		}
		f, there := p.files[name]
		if !there || !f.disposable(now, *left) {
			continue
		}
		if lasting {
			*left--
			for id := range p.entries {
				if in(name, id) {
					rewrite[ps.own(id, values)] = true
				}
			}
		}
		done = append(done, name)
	}
	return rewrite, done, nil
}

// isFormer reports whether this writer no longer writes a file: the file is another writer's, or the page was split or
// joined since. values is the number of values of the page.
func (ps *pages[V]) isFormer(name string, values int) bool {
	digits, writer, _ := strings.Cut(name, "-")
	return writer != ps.writer || (len(digits) == 4) != (values > splitAt)
}

// disposable reports whether a former file may be deleted: all values have expired, or the file is old and left, the
// number of files that may still be taken over, is not 0.
func (f file) disposable(now time.Time, left int) bool {
	return !lasts(f.until, now) || left > 0 && now.Unix()-f.writtenAt > int64(quiet/time.Second)
}
