package verify_test

import (
	"fmt"
	"testing"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify/verifytest"
)

// Reports of any number reach the engine in requests of at most 100, and the feedback keeps their order.
func TestReportLeaked(t *testing.T) {
	issuer := verifytest.New(t)
	v, err := verify.New(t.Context(), issuer.Config())
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	text := issuer.Opaque(t, verifytest.Token{Scopes: []string{"a"}})
	list := make([]verify.Leak, 250)
	for i := range list {
		list[i] = verify.Leak{Token: fmt.Sprint("noise ", i), Type: "t"}
	}
	list[120].Token = text
	feedback, err := v.ReportLeaked(t.Context(), list)
	if err != nil || len(feedback) != 250 || issuer.Calls("leaked") != 3 {
		t.Fatal(len(feedback), err)
	}
	for i, f := range feedback {
		if (f.Label == "true_positive") != (i == 120) || f.TokenType != "t" || f.TokenHash == "" {
			t.Errorf("%d: %+v", i, f)
		}
	}
	if alive, err := v.Alive(t.Context(), text); err != nil || alive {
		t.Errorf("the reported token is alive: %v", err)
	}
	issuer.SetDown(true)
	if _, err := v.ReportLeaked(t.Context(), list); err == nil {
		t.Error("Vault is down, and the reports were taken")
	}
}

// A token is alive also if it is bound to what the question does not state. The question counts no use.
func TestAlive(t *testing.T) {
	issuer := verifytest.New(t)
	v, err := verify.New(t.Context(), issuer.Config())
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	good := issuer.Opaque(t, verifytest.Token{Scopes: []string{"a"}})
	bound := issuer.Opaque(t, verifytest.Token{Scopes: []string{"a"}, CIDRs: []string{"10.0.0.0/8"}})
	suspended := issuer.Opaque(t, verifytest.Token{Scopes: []string{"a"}})
	issuer.Suspend(suspended)
	revoked := issuer.Opaque(t, verifytest.Token{Scopes: []string{"a"}})
	issuer.Revoke(revoked)
	asked := issuer.Calls("introspect")
	for text, want := range map[string]bool{good: true, bound: true, suspended: true, revoked: false, "noise": false, good + "x": false} {
		if alive, err := v.Alive(t.Context(), text); err != nil || alive != want {
			t.Errorf("%.12s: alive %v, %v", text, alive, err)
		}
	}
	if n := issuer.Calls("introspect") - asked; n != 4 {
		t.Errorf("%d questions: noise must not reach Vault", n)
	}
	if s := v.State(); s.Tokens != 0 {
		t.Errorf("%d tokens are kept", s.Tokens)
	}
	issuer.SetDown(true)
	if _, err := v.Alive(t.Context(), good); err == nil {
		t.Error("Vault is down, and the question was answered")
	}
}
