package ledger

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// Prune drops what has run out, one write for each file of this writer that holds something of it. Files of
// former writers are deleted when all in them has run out; when they are old, what they hold is first taken over.
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

// others lists the files of other writers that storage has, by the number of their pages.
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
	if p.over(now) { // as far as this writer knows: another one may have renewed what this one has revoked
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

// outdated returns the files of this writer to rewrite, and the former files that nobody needs once that is done. The
// caller holds writing.
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
		// The file may have been written since it was read, by a writer that is not so former.
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

// isFormer reports whether this writer does not write a file any more, when its page holds so many values.
func (ps *pages[V]) isFormer(name string, values int) bool {
	digits, writer, _ := strings.Cut(name, "-")
	return writer != ps.writer || (len(digits) == 4) != (values > splitAt)
}

// disposable reports whether a former file may go: when all in it has run out, or when it is old, of which so
// many are taken over.
func (f file) disposable(now time.Time, left int) bool {
	return !lasts(f.until, now) || left > 0 && now.Unix()-f.writtenAt > int64(quiet/time.Second)
}
