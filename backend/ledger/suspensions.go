package ledger

import (
	"context"
	"crypto/sha256"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// SuspensionsPrefix is where suspensions are stored.
const SuspensionsPrefix = "ledger/suspensions/"

// forever is the KeepUntil of the suspension of a subject, in seconds since 1970: the year 9999.
const forever = 253402300799

// A Suspension says whether a grant or a subject is suspended. A suspension has no effect on a revocation, which
// Deviations holds.
type Suspension struct {
	_         struct{}        `cbor:",toarray"`
	Marks     string          // who suspended and who resumed, see mark
	At        int64           // seconds since 1970: the last change
	Note      string          // of the last change; empty: none
	Subject   string          // the entity; empty: the suspension is that of a grant
	Status    token.StatusRef // of a grant: the place in a status list that shows the suspension; zero: none
	KeepUntil int64           // seconds since 1970
}

func (s Suspension) keepUntil() int64 { return s.KeepUntil }

// Suspended reports whether the grant or the subject is suspended. The zero Suspension is not.
func (s Suspension) Suspended() bool {
	return slices.ContainsFunc(parseMarks(s.Marks), func(m mark) bool { return m.suspended > m.resumed })
}

// merge combines the suspensions by two writers. A resume undoes the suspensions that the resuming writer had read, and
// no other: what a writer has suspended stays suspended until somebody who knows of that resumes.
func (s Suspension) merge(o Suspension) Suspension {
	marks := parseMarks(s.Marks)
	for _, m := range parseMarks(o.Marks) {
		marks = m.addTo(marks)
	}
	if o.At > s.At || o.At == s.At && o.Note > s.Note {
		s.At, s.Note = o.At, o.Note
	}
	if s.Status.IsZero() {
		s.Status = o.Status
	}
	s.Marks, s.KeepUntil = formatMarks(marks), max(s.KeepUntil, o.KeepUntil)
	return s
}

// A mark is what one writer has done: the number of the writer's last suspension, and the number of the last suspension
// of the writer that anybody has undone. The numbers of a writer only grow.
type mark struct {
	writer             string
	suspended, resumed uint64
}

// addTo adds a mark to marks, which have at most one mark of each writer.
func (m mark) addTo(marks []mark) []mark {
	i := slices.IndexFunc(marks, func(o mark) bool { return o.writer == m.writer })
	if i < 0 {
		return append(marks, m)
	}
	marks[i].suspended, marks[i].resumed = max(marks[i].suspended, m.suspended), max(marks[i].resumed, m.resumed)
	return marks
}

// formatMarks returns the one text of marks: writer:suspended:resumed for each, in order, with spaces between them.
func formatMarks(marks []mark) string {
	texts := make([]string, len(marks))
	for i, m := range marks {
		texts[i] = m.writer + ":" + strconv.FormatUint(m.suspended, 10) + ":" + strconv.FormatUint(m.resumed, 10)
	}
	slices.Sort(texts)
	return strings.Join(texts, " ")
}

// parseMarks returns the marks of a text. A mark that cannot be read counts as suspended.
func parseMarks(text string) []mark {
	var marks []mark
	for one := range strings.FieldsSeq(text) {
		writer, numbers, _ := strings.Cut(one, ":")
		suspended, resumed, _ := strings.Cut(numbers, ":")
		m := mark{writer: writer}
		var err1, err2 error
		m.suspended, err1 = strconv.ParseUint(suspended, 10, 64)
		m.resumed, err2 = strconv.ParseUint(resumed, 10, 64)
		if err1 != nil || err2 != nil {
			m.suspended, m.resumed = math.MaxUint64, 0
		}
		marks = m.addTo(marks)
	}
	return marks
}

// Suspensions holds the suspensions of grants and of subjects, and the resumes until no older suspension can come back.
type Suspensions struct {
	revised[Suspension]
	last     atomic.Uint64 // number of the last suspension by this writer; a number is not used twice, even after a failure
	doubtful sync.Map      // token.ID -> KeepUntil (int64): a suspension whose write failed, and which storage may have all the same
}

// NewSuspensions returns empty Suspensions of a writer. Load fills them.
func NewSuspensions(writer string) *Suspensions {
	return &Suspensions{revised: revised[Suspension]{pages: pages[Suspension]{prefix: SuspensionsPrefix, writer: writer}}}
}

// OnChange has f told of each grant or subject that memory learns to be suspended or resumed: by a change, or from the
// file of another process. until is when the tokens of a grant have expired at the latest. subject is empty for a grant.
// The caller sets f before other goroutines use x.
func (x *Suspensions) OnChange(f func(grant token.ID, subject string, until time.Time)) {
	x.changed = func(id token.ID, old Suspension, _ bool, current Suspension) {
		if old.Marks != current.Marks {
			f(id, current.Subject, time.Unix(current.KeepUntil, 0))
		}
	}
}

// subjectID returns the ID under which a subject is kept.
func subjectID(subject string) token.ID {
	sum := sha256.Sum256([]byte("subject " + subject))
	return token.ID(sum[:len(token.ID{})])
}

// Grant returns the suspension of a grant; the zero Suspension if there is none.
func (x *Suspensions) Grant(grant token.ID) Suspension {
	v, _ := x.get(grant)
	return v
}

// Subject returns the suspension of a Vault entity; the zero Suspension if there is none. The empty ID is no entity.
func (x *Suspensions) Subject(subject string) Suspension {
	if subject == "" {
		return Suspension{}
	}
	v, _ := x.get(subjectID(subject))
	return v
}

// Unreadable returns an error if a file that may have the suspension of a grant or its subject cannot be read. An empty
// subject is none.
func (x *Suspensions) Unreadable(grant token.ID, subject string) error {
	if err := x.pages.Unreadable(grant); err != nil || subject == "" {
		return err
	}
	return x.pages.Unreadable(subjectID(subject))
}

// SuspendGrant suspends a grant whose tokens have expired at until.
func (x *Suspensions) SuspendGrant(
	ctx context.Context, s logical.Storage, grant token.ID, status token.StatusRef, note string, until, now time.Time,
) error {
	return x.suspend(ctx, s, grant, Suspension{Note: note, Status: status, KeepUntil: until.Unix()}, now)
}

// SuspendSubject suspends a Vault entity: all grants of the entity, also grants that are issued later.
func (x *Suspensions) SuspendSubject(ctx context.Context, s logical.Storage, subject, note string, now time.Time) error {
	return x.suspend(ctx, s, subjectID(subject), Suspension{Note: note, Subject: subject, KeepUntil: forever}, now)
}

// suspend stores a suspension, also of what is suspended: another process may undo the earlier suspension meanwhile.
func (x *Suspensions) suspend(ctx context.Context, s logical.Storage, id token.ID, to Suspension, now time.Time) error {
	defer x.revision.Add(1)
	to.At = now.Unix()
	err := x.change(ctx, s, id, now, func(old Suspension, _ bool) (Suspension, error) {
		if to.Status.IsZero() {
			to.Status = old.Status
		}
		if to.Note == "" && old.Suspended() {
			to.Note = old.Note
		}
		to.KeepUntil = max(to.KeepUntil, old.KeepUntil)
		to.Marks = formatMarks(mark{writer: x.writer, suspended: x.last.Add(1)}.addTo(parseMarks(old.Marks)))
		return to, nil
	})
	switch {
	case err == nil:
		x.doubtful.Delete(id)
	case !strings.Contains(err.Error(), logical.ErrReadOnly.Error()): // which stores nothing; errors of storage arrive as text
		x.doubtful.Store(id, to.KeepUntil)
	}
	return err
}

// ResumeGrant undoes the suspension of a grant, and reports whether the grant was suspended.
func (x *Suspensions) ResumeGrant(
	ctx context.Context, s logical.Storage, grant token.ID, note string, now time.Time,
) (was bool, _ error) {
	return x.resume(ctx, s, grant, "", note, now)
}

// ResumeSubject undoes the suspension of a Vault entity, and reports whether the entity was suspended. Grants of the
// entity that were suspended by themselves stay suspended.
func (x *Suspensions) ResumeSubject(
	ctx context.Context, s logical.Storage, subject, note string, now time.Time,
) (was bool, _ error) {
	return x.resume(ctx, s, subjectID(subject), subject, note, now)
}

// resume stores that a suspension is undone. The record of the resume stays until KeepUntil, so that the file of another
// process does not bring the suspension back.
func (x *Suspensions) resume(
	ctx context.Context, s logical.Storage, id token.ID, subject, note string, now time.Time,
) (was bool, _ error) {
	defer x.revision.Add(1)
	err := x.change(ctx, s, id, now, func(old Suspension, _ bool) (Suspension, error) {
		until, doubtful := x.doubtful.Load(id)
		if was = old.Suspended() || doubtful; !was {
			return old, errNotSuspended
		}
		marks := parseMarks(old.Marks)
		if doubtful { // storage may have any suspension by this writer
			marks = mark{writer: x.writer, suspended: x.last.Load()}.addTo(marks)
			old.KeepUntil, old.Subject = max(old.KeepUntil, until.(int64)), subject
		}
		for i := range marks {
			marks[i].resumed = max(marks[i].resumed, marks[i].suspended)
		}
		old.Marks, old.At, old.Note = formatMarks(marks), now.Unix(), note
		return old, nil
	})
	if errors.Is(err, errNotSuspended) {
		return false, nil
	}
	if err == nil {
		x.doubtful.Delete(id)
	}
	return was, err
}

var errNotSuspended = errors.New("not suspended")

// Revision returns a number that changes whenever a status list may have changed.
func (x *Suspensions) Revision() uint64 { return x.revision.Load() }

// Suspended returns the grants and the subjects that are suspended.
func (x *Suspensions) Suspended() (grants []Suspension, subjects map[string]bool) {
	x.all(func(v Suspension) {
		switch {
		case !v.Suspended():
		case v.Subject == "":
			grants = append(grants, v)
		default:
			if subjects == nil {
				subjects = make(map[string]bool)
			}
			subjects[v.Subject] = true
		}
	})
	return grants, subjects
}

// Names returns what is suspended and has not certainly expired, by the ID of the grant or of the Vault entity.
func (x *Suspensions) Names(now time.Time) map[string]Suspension {
	names := make(map[string]Suspension)
	x.each(func(id token.ID, v Suspension) {
		switch {
		case !v.Suspended() || v.KeepUntil <= now.Unix():
		case v.Subject != "":
			names[v.Subject] = v
		default:
			names[id.String()] = v
		}
	})
	return names
}
