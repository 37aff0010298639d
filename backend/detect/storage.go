package detect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/store"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

const (
	// Prefix is where the settings and the findings are stored.
	Prefix = "detect/"

	// findingsPrefix is where the findings are stored: one entry for each, of at most about 4 kB.
	findingsPrefix = Prefix + "finding/"

	// writeInterval is the minimum time between two writes.
	writeInterval = time.Second

	// writeDelay is how long changes of a stored finding are gathered. A new finding is stored at once.
	writeDelay = 30 * time.Second

	// retryDelay is how long Run waits after a failure.
	retryDelay = 10 * time.Second

	// MaxNote is the maximum length of a note, in bytes.
	MaxNote = 512
)

// writes is the state of Run.
type writes struct {
	settings sync.Mutex // held while the settings are read or written
	running  sync.Mutex // held by Run, Flush, and while a finding is written or read; locked before findings.mu
	next     time.Time
	failing  bool // the last write failed
	retried  bool // the last thing that Run did was to repeat a response
}

var idForm = regexp.MustCompile(`^[0-9a-f]{24}$`)

// Load reads the settings and the findings from storage. Another call brings memory up to date.
func (d *Detector) Load(ctx context.Context, s logical.Storage, _ time.Time) error {
	if err := d.loadSettings(ctx, s); err != nil {
		return err
	}
	ids, err := s.List(ctx, findingsPrefix)
	if err != nil {
		return err
	}
	return store.Each(ctx, ids, func(ctx context.Context, id string) error { return d.read(ctx, s, id) })
}

// Reload reads an entry that another process has written.
func (d *Detector) Reload(ctx context.Context, s logical.Storage, key string, _ time.Time) error {
	if id, is := strings.CutPrefix(key, findingsPrefix); is {
		return d.read(ctx, s, id)
	}
	return d.loadSettings(ctx, s)
}

// read brings memory up to date with a stored finding.
func (d *Detector) read(ctx context.Context, s logical.Storage, id string) error {
	entry, err := s.Get(ctx, findingsPrefix+id)
	if err != nil {
		return err
	}
	var stored Finding
	if entry != nil {
		if stored, err = decode(entry.Value, id); err != nil {
			d.NoteDamage(findingsPrefix+id, err)
			return nil
		}
	}
	d.NoteDamage(findingsPrefix+id, nil)
	fs := &d.findings
	fs.mu.Lock()
	defer fs.mu.Unlock()
	it := fs.byID[id]
	switch {
	case entry == nil:
		if it != nil && it.dirty.IsZero() {
			delete(fs.byID, id) // deleted by another process
		}
	case it == nil:
		fs.place(&item{Finding: stored, stored: true}, d.Now())
	default:
		it.merge(&stored)
	}
	return nil
}

// decode decodes a stored finding.
func decode(value []byte, id string) (f Finding, err error) {
	if err := json.Unmarshal(value, &f); err != nil {
		return f, err
	}
	if f.ID != id || !idForm.MatchString(id) || !f.Rule.Valid() || f.State != Open && f.State != Acknowledged {
		return f, errors.New("the finding is not one that this engine writes")
	}
	return f, nil
}

// Run does one thing: it responds to a finding, announces a finding, and writes the finding. Run returns when to run again.
func (d *Detector) Run(ctx context.Context) time.Duration {
	d.writes.running.Lock()
	defer d.writes.running.Unlock()
	now := d.Now()
	if wait := d.writes.next.Sub(now); wait > 0 && wait <= retryDelay {
		return wait
	}
	id, wait := d.due(now)
	if id == "" {
		return wait
	}
	if err := d.settle(ctx, id); err != nil {
		d.writes.next = now.Add(retryDelay)
		if !d.writes.failing && ctx.Err() == nil {
			d.Log().Warn("finding not stored, retried", "finding", id, "error", err)
		}
		d.writes.failing = true
		return retryDelay
	}
	d.writes.failing = false
	d.writes.next = now.Add(writeInterval)
	return writeInterval
}

// due returns the finding that needs something now, or how long to wait; 0: until an event. New findings come first. A response
// to be repeated waits for one new finding at most, and a new finding for one repeated response.
func (d *Detector) due(now time.Time) (string, time.Duration) {
	fs := &d.findings
	fs.mu.Lock()
	defer fs.mu.Unlock()
	var fresh, changed, again *item
	for _, it := range fs.byID {
		d.retry(it, now)
		news, _ := it.news()
		switch {
		case it.dirty.IsZero() && news == "":
		case !it.stored || news != "":
			if fresh == nil || it.respond != "" && fresh.respond == "" || it.respond == fresh.respond && it.dirty.Before(fresh.dirty) {
				fresh = it
			}
		case it.respond != "" && (again == nil || it.dirty.Before(again.dirty)):
			again = it
		case it.respond == "" && (changed == nil || it.dirty.Before(changed.dirty)):
			changed = it
		}
	}
	d.writes.retried = again != nil && waits(again, now) == 0 && (fresh == nil || !d.writes.retried)
	switch {
	case d.writes.retried:
		return again.ID, 0
	case fresh != nil:
		return fresh.ID, 0
	}
	for id := range fs.gone {
		return id, 0
	}
	if changed == nil || again != nil && again.dirty.Before(changed.dirty) {
		changed = again
	}
	if changed == nil {
		return "", 0
	}
	if wait := waits(changed, now); wait > 0 {
		return "", wait
	}
	return changed.ID, 0
}

// settle does what is due of a finding.
func (d *Detector) settle(ctx context.Context, id string) error {
	fs := &d.findings
	fs.mu.Lock()
	it := fs.byID[id]
	if it == nil {
		fs.mu.Unlock()
		if err := d.Storage.Delete(ctx, findingsPrefix+id); err != nil {
			return err
		}
		fs.mu.Lock()
		delete(fs.gone, id)
		fs.mu.Unlock()
		return nil
	}
	respond, f := it.respond, it.copy()
	fs.mu.Unlock()
	if respond != "" {
		f.Response = d.respond(ctx, &f, respond)
		fs.mu.Lock()
		it.Response = f.Response
		if f.Response != Failed {
			it.respond = ""
		}
		fs.mu.Unlock()
	}
	if err := d.announce(ctx, it); err != nil {
		return err
	}
	return d.write(ctx, d.Storage, id)
}

// respond suspends or revokes the grant of a finding, and returns what came of the response.
func (d *Detector) respond(ctx context.Context, f *Finding, mode Mode) string {
	id, err := token.ParseID(f.TokenID)
	response := Revoked
	switch {
	case err != nil:
	case mode == Suspend:
		response, err = Suspended, d.Respond.Suspend(ctx, id, fmt.Sprintf("finding %s: %s", f.ID, f.Rule))
	default:
		err = d.Respond.Revoke(ctx, id)
	}
	switch {
	case err == nil:
		return response
	case errors.Is(err, ErrRevoked):
		return Revoked
	}
	d.Log().Error("response to a finding failed", "finding", f.ID, "rule", string(f.Rule), "mode", string(mode), "token_id", f.TokenID,
		"error", err)
	if errors.As(err, new(*refusal.Error)) {
		return Refused
	}
	return Failed
}

// write stores a finding, merged with what another process has stored: a node that was replaced keeps the acknowledgements of
// the active node. The caller holds writes.running.
func (d *Detector) write(ctx context.Context, s logical.Storage, id string) error {
	if err := d.read(ctx, s, id); err != nil {
		return err
	}
	fs := &d.findings
	fs.mu.Lock()
	it := fs.byID[id]
	if it == nil {
		fs.mu.Unlock()
		return nil
	}
	since, f := it.dirty, it.copy()
	it.dirty = time.Time{}
	if it.respond != "" { // tried again with the next write
		it.dirty = d.Now()
	}
	fs.mu.Unlock()
	entry, err := logical.StorageEntryJSON(findingsPrefix+id, f)
	if err == nil {
		err = s.Put(ctx, entry)
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if err != nil {
		it.dirty = since
		return err
	}
	d.NoteDamage(findingsPrefix+id, nil)
	it.stored = true
	return nil
}

// Flush stores a finding that waits for storage. The caller has closed the worker.
func (d *Detector) Flush(ctx context.Context) {
	d.writes.running.Lock()
	defer d.writes.running.Unlock()
	if id, _ := d.due(d.Now().Add(writeDelay)); id != "" && !d.Now().Before(d.writes.next) {
		_ = d.settle(ctx, id) // findings of the last seconds may be lost
	}
}

// Acknowledge sets the note of a finding, and stores that an operator has seen the finding.
func (d *Detector) Acknowledge(ctx context.Context, s logical.Storage, id, note, by string) error {
	if err := refusal.CheckLen("note", note, MaxNote); err != nil {
		return err
	}
	if strings.TrimSpace(note) == "" || !utf8.ValidString(note) || strings.ContainsFunc(note, unicode.IsControl) {
		return refusal.Field("note", "takes a line of text: why the finding is as it should be, or what was done")
	}
	if err := token.NoneIn(note); err != nil {
		return refusal.Field("note", "%s", err)
	}
	d.writes.running.Lock()
	defer d.writes.running.Unlock()
	fs := &d.findings
	fs.mu.Lock()
	it := fs.byID[id]
	if it == nil {
		fs.mu.Unlock()
		return refusal.Field("id", "%q is not the ID of a finding", refusal.Clip(id))
	}
	before := it.Acknowledgement
	it.Acknowledgement = Acknowledgement{Acknowledged, note, d.Now().UTC().Truncate(time.Second), line(by)}
	if it.At.Before(before.At) { // by the clock of another node: the later note must win
		it.At = before.At
	}
	if it.dirty.IsZero() {
		it.dirty = d.Now()
	}
	fs.mu.Unlock()
	err := d.write(ctx, s, id)
	if err != nil {
		fs.mu.Lock()
		it.Acknowledgement = before
		fs.mu.Unlock()
		return err
	}
	d.Wake() // Run announces the acknowledgement
	return nil
}

// line returns the beginning of a name of Vault, which another identity system may have made, as a line of at most MaxNote bytes.
func line(name string) string {
	name = strings.ToValidUTF8(name[:min(len(name), MaxNote)], "")
	return strings.TrimSpace(strings.Map(func(c rune) rune {
		if unicode.IsControl(c) {
			return ' '
		}
		return c
	}, name))
}
