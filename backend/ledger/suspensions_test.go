package ledger

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

func suspensionsOf(t *testing.T, s logical.Storage) *Suspensions {
	t.Helper()
	x := NewSuspensions(NewWriter())
	if err := x.Load(context.Background(), s, now); err != nil {
		t.Fatal(err)
	}
	return x
}

func suspend(t *testing.T, x *Suspensions, s logical.Storage, n int) {
	t.Helper()
	if err := x.SuspendGrant(context.Background(), s, id(n), token.StatusRef{List: 3, Index: 4}, "why", inAnHour, now); err != nil {
		t.Fatal(err)
	}
}

func resume(t *testing.T, x *Suspensions, s logical.Storage, n int, want bool) {
	t.Helper()
	if was, err := x.ResumeGrant(context.Background(), s, id(n), "", now); err != nil || was != want {
		t.Fatalf("resumed: was suspended %v, %v, want %v", was, err, want)
	}
}

// check holds what a process says of grant 1, in memory and after a restart.
func (x *Suspensions) check(t *testing.T, s logical.Storage, want bool) {
	t.Helper()
	for name, x := range map[string]*Suspensions{"in memory": x, "after a restart": suspensionsOf(t, s)} {
		if got := x.Grant(id(1)).Suspended(); got != want {
			t.Errorf("%s: suspended %v, want %v: %+v", name, got, want, x.Grant(id(1)))
		}
	}
}

func TestSuspend(t *testing.T) {
	s := new(logical.InmemStorage)
	x := suspensionsOf(t, s)
	x.check(t, s, false)
	resume(t, x, s, 1, false)
	for range 2 {
		suspend(t, x, s, 1)
		suspend(t, x, s, 1) // suspending twice is suspending once
		x.check(t, s, true)
		resume(t, x, s, 1, true)
		x.check(t, s, false)
		resume(t, x, s, 1, false)
	}
	suspend(t, x, s, 1)
	if grants, subjects := x.Suspended(); len(grants) != 1 || grants[0].Status.Index != 4 || grants[0].Note != "why" || len(subjects) > 0 {
		t.Errorf("suspended are %+v and %v", grants, subjects)
	}
}

func TestSuspendSubject(t *testing.T) {
	ctx, s := context.Background(), new(logical.InmemStorage)
	x := suspensionsOf(t, s)
	if err := x.SuspendSubject(ctx, s, "entity", "why", now); err != nil {
		t.Fatal(err)
	}
	later := now.Add(10 * 365 * 24 * time.Hour)
	if err := x.Prune(ctx, s, later); err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]*Suspensions{"in memory": x, "after a restart": suspensionsOf(t, s)} {
		if !x.Subject("entity").Suspended() || x.Subject("other").Suspended() || x.Subject("").Suspended() {
			t.Errorf("%s: %+v, %+v, %+v", name, x.Subject("entity"), x.Subject("other"), x.Subject(""))
		}
		if _, subjects := x.Suspended(); len(subjects) != 1 || !subjects["entity"] {
			t.Errorf("%s: suspended are %v", name, subjects)
		}
	}
	if was, err := x.ResumeSubject(ctx, s, "entity", "", now); err != nil || !was || suspensionsOf(t, s).Subject("entity").Suspended() {
		t.Errorf("resumed: %v, %v", was, err)
	}
}

// A resume undoes what the resuming process had read. Two processes that do not know of each other suspend and resume in
// every order: what a process has suspended stays suspended until a process that knows of that resumes.
func TestSuspendByTwo(t *testing.T) {
	s := new(logical.InmemStorage)
	old, current := suspensionsOf(t, s), suspensionsOf(t, s)
	suspend(t, old, s, 1) // the process that was replaced
	resume(t, old, s, 1, true)
	suspend(t, old, s, 1)
	resume(t, old, s, 1, true)
	suspend(t, current, s, 1)
	next := suspensionsOf(t, s)
	next.check(t, s, true) // the resumes were acknowledged before, and by a process that did not know

	resume(t, next, s, 1, true)
	suspend(t, old, s, 1) // still without knowing of the others
	suspensionsOf(t, s).check(t, s, true)
	if old.Grant(id(1)).Marks == "" || strings.Count(suspensionsOf(t, s).Grant(id(1)).Marks, " ") != 1 {
		t.Errorf("two processes have suspended: %q", suspensionsOf(t, s).Grant(id(1)).Marks)
	}
	last := suspensionsOf(t, s)
	resume(t, last, s, 1, true)
	last.check(t, s, false)
	for _, x := range []*Suspensions{old, current, next} { // files of former writers do not bring the suspension back
		if err := x.Load(context.Background(), s, now); err != nil {
			t.Fatal(err)
		}
		x.check(t, s, false)
	}
}

// A suspension whose write failed may be in storage all the same. Its number is not used again.
func TestSuspendFails(t *testing.T) {
	ctx, s := context.Background(), new(logical.InmemStorage)
	x := suspensionsOf(t, s)
	s.Underlying().FailPut(true)
	if err := x.SuspendGrant(ctx, s, id(1), token.StatusRef{}, "", inAnHour, now); err == nil {
		t.Fatal("the write did not fail")
	}
	s.Underlying().FailPut(false)
	if x.Grant(id(1)).Suspended() {
		t.Error("memory shows a suspension that storage does not have")
	}
	suspend(t, x, s, 1)
	if got := x.Grant(id(1)).Marks; got != x.writer+":2:0" {
		t.Errorf("marks %q", got)
	}
}

func TestSuspensionsExpire(t *testing.T) {
	ctx, s := context.Background(), new(logical.InmemStorage)
	x := suspensionsOf(t, s)
	suspend(t, x, s, 1)
	resume(t, x, s, 1, true)
	if err := x.Prune(ctx, s, inAnHour.Add(2*ClockSkew)); err != nil {
		t.Fatal(err)
	}
	if keys, err := s.List(ctx, SuspensionsPrefix); err != nil || len(keys) > 0 || x.Len() > 0 {
		t.Errorf("%q, %v, %d in memory", keys, err, x.Len())
	}
}

// Marks have one text, and marks that cannot be read suspend.
func TestMarks(t *testing.T) {
	for text, want := range map[string]bool{
		"": false, "a:1:0": true, "a:1:1": false, "a:1:1 b:2:1": true, "a:1:2": false, "a": true, "a:x:1": true, "a:1:": true, "a:-1:1": true,
	} {
		if got := (Suspension{Marks: text}).Suspended(); got != want {
			t.Errorf("%q: suspended %v", text, got)
		}
	}
	a, b := Suspension{Marks: "a:3:1 b:1:1", At: 5, Note: "a"}, Suspension{Marks: "b:2:1 a:2:2", At: 6, Note: "b"}
	ab, ba := a.merge(b), b.merge(a)
	if ab != ba || ab.Marks != "a:3:2 b:2:1" || ab.Note != "b" {
		t.Errorf("merged: %+v and %+v", ab, ba)
	}
}

// Others learn of a change, and of no other write.
func TestSuspensionsOnChange(t *testing.T) {
	ctx, s := context.Background(), new(logical.InmemStorage)
	x, other := suspensionsOf(t, s), suspensionsOf(t, s)
	var told []string
	x.OnChange(func(grant token.ID, subject string, _ time.Time) { told = append(told, grant.String()+subject) })
	suspend(t, x, s, 1)
	resume(t, x, s, 1, true)
	resume(t, x, s, 1, false)
	if err := other.SuspendSubject(ctx, s, "entity", "", now); err != nil {
		t.Fatal(err)
	}
	if err := x.Load(ctx, s, now); err != nil {
		t.Fatal(err)
	}
	want := []string{id(1).String(), id(1).String(), subjectID("entity").String() + "entity"}
	if strings.Join(told, " ") != strings.Join(want, " ") {
		t.Errorf("told of %q, want %q", told, want)
	}
	before := x.Revision()
	if suspend(t, x, s, 2); x.Revision() == before {
		t.Error("the revision is the same after a suspension")
	}
}

// lossy stores what is put, and returns an error: the answer was lost.
type lossy struct {
	logical.Storage
	lost bool
}

func (s *lossy) Put(ctx context.Context, e *logical.StorageEntry) error {
	if err := s.Storage.Put(ctx, e); err != nil || !s.lost {
		return err
	}
	return errors.New("the answer was lost")
}

// A resume undoes a suspension that was stored although the write returned an error.
func TestResumeAfterALostAnswer(t *testing.T) {
	ctx := context.Background()
	s := &lossy{Storage: new(logical.InmemStorage)}
	x := NewSuspensions(NewWriter())
	grant := samePage(1)
	s.lost = true
	if x.SuspendGrant(ctx, s, grant, token.StatusRef{}, "", inAnHour, now) == nil || x.SuspendSubject(ctx, s, "ann", "", now) == nil {
		t.Fatal("no error")
	}
	s.lost = false
	for range 2 {
		if _, err := x.ResumeGrant(ctx, s, grant, "", now); err != nil {
			t.Fatal(err)
		}
		if _, err := x.ResumeSubject(ctx, s, "ann", "", now); err != nil {
			t.Fatal(err)
		}
		next := NewSuspensions(NewWriter())
		if err := next.Load(ctx, s, now); err != nil {
			t.Fatal(err)
		}
		if next.Grant(grant).Suspended() || next.Subject("ann").Suspended() {
			t.Error("the suspension comes back after the resume")
		}
	}
	if was, err := x.ResumeGrant(ctx, s, grant, "", now); was || err != nil {
		t.Errorf("nothing was suspended: %v %v", was, err)
	}
}
