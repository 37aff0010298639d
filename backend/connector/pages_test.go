package connector

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the pages of docs/providers anew")

// Each built-in provider has a page in docs/providers that says what its definition says.
func TestPages(t *testing.T) {
	providers, err := Builtin()
	if err != nil {
		t.Fatal(err)
	}
	dir := "../../docs/providers"
	for name, p := range providers {
		path := filepath.Join(dir, name+".md")
		want := pageOf(p)
		if *update {
			if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != want {
			t.Errorf("%s is not what the definition says: go test ./backend/connector -run TestPages -update (%v)", path, err)
		}
	}
	pages, err := filepath.Glob(dir + "/*.md")
	if err != nil || len(pages) != len(providers) {
		t.Errorf("%d pages of %d providers, %v", len(pages), len(providers), err)
	}
}

func pageOf(p *Provider) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\n%s\n", p.Title, strings.TrimSpace(p.Description))
	fmt.Fprintf(&b, "\n    vault write apitoken/connections/my-%[1]s provider=%[1]s url=https://... \\\n     %[2]s\n", p.Name, flags(p.Credential, "credential"))
	fmt.Fprintf(&b, "    vault write -force apitoken/connections/my-%s/check\n", p.Name)
	if p.CanRotateRoot() {
		fmt.Fprintf(&b, "    vault write -force apitoken/rotate-root/my-%s\n", p.Name)
	}
	fmt.Fprintf(&b, "    vault write apitoken/roles/my-role connection=my-%s ttl=1h \\\n     %s\n    vault read apitoken/creds/my-role\n", p.Name, flags(p.Params, "params"))
	for _, part := range []struct {
		title  string
		fields map[string]Field
	}{{"The connection's credential", p.Credential}, {"The connection's settings", p.Settings}, {"A role's params", p.Params}} {
		if len(part.fields) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n## %s\n\n| field | type | |\n| --- | --- | --- |\n", part.title)
		for _, name := range sortedKeys(part.fields) {
			f := part.fields[name]
			about := []string{f.Type}
			if f.Required {
				about = append(about, "required")
			}
			if f.Secret {
				about = append(about, "secret")
			}
			text := strings.TrimSpace(f.Description)
			if len(f.Allowed) > 0 {
				text += " One of `" + strings.Join(f.Allowed, "`, `") + "`."
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", name, strings.Join(about, ", "), text)
		}
	}
	expiry := map[Expiry]string{
		ExpiryNone:    "The service does not expire tokens: the engine revokes a token when its lease ends. Renewing a lease needs no call.",
		ExpirySeconds: "The service expires a token by itself, after the end of the lease.",
		ExpiryDays:    "The service expires a token by itself, at the start of a day (UTC) after the end of the lease.",
	}[p.Expiry]
	if create := p.operations[opCreate]; p.Expiry != ExpiryNone && !create.refersTo("expires_at") && !create.refersTo("ttl") {
		expiry = "The service decides when a token expires. The lease never outlives the token, and may be shorter."
	}
	if !p.CanRenew() {
		expiry += " The expiry cannot be moved: leases are not renewable. Read creds again."
	}
	lost := "If the answer to a create is lost, the engine finds the token by its name and revokes the token."
	if !p.CanFind() {
		lost = "If the answer to a create is lost, the engine cannot find the token. The token expires by itself."
	}
	rotate := "The credential cannot be rotated."
	if p.CanRotateRoot() {
		rotate = "`rotate-root` replaces the credential."
		if p.CanFindRoot() {
			rotate += " If the answer is lost, the engine finds the new credential by its name and revokes the credential."
		}
	}
	list := "`reconcile` cannot compare the tokens at the service with those of the engine."
	if p.CanList() {
		list = "`reconcile` lists the tokens of the service that the credential can see, and finds those that were made without the engine."
	}
	fmt.Fprintf(&b, "\n## What to know\n\n- %s\n- %s\n- %s\n- %s\n\n## The service's own documentation\n\n", expiry, lost, rotate, list)
	for _, link := range p.Documentation {
		fmt.Fprintf(&b, "- <%s>\n", link)
	}
	return b.String()
}

func flags(fields map[string]Field, flag string) string {
	text := ""
	for _, name := range sortedKeys(fields) {
		if fields[name].Required {
			text += fmt.Sprintf(" %s=%s=...", flag, name)
		}
	}
	if text == "" {
		return " " + flag + "=..."
	}
	return text
}

// The definition in docs/providers.md compiles.
func TestExampleCompiles(t *testing.T) {
	text, err := os.ReadFile("../../docs/providers.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "```yaml\n")
	example, _, found := strings.Cut(rest, "```")
	if _, err := Compile([]byte(example)); !found || err != nil {
		t.Error(err)
	}
}
