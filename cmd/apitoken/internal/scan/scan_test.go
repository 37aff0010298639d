package scan

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// mint returns a token of a mount of its own. claims may be nil.
func mint(t testing.TB, prefix string, claims *token.Claims) string {
	t.Helper()
	now := time.Now()
	key, err := token.NewKey(rand.Reader, now)
	if err != nil {
		t.Fatal(err)
	}
	id, err := token.NewID(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if claims == nil {
		claims = &token.Claims{}
	}
	claims.ID, claims.Grant, claims.IssuedAt, claims.ExpiresAt = id, id, now, now.Add(time.Hour)
	text, err := token.Mint(token.NewRing([]token.Key{key}), prefix, claims)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// mintJWT returns a JWT with the claim of the engine. issuer varies the place of the claim.
func mintJWT(t testing.TB, issuer, claim string) string {
	t.Helper()
	payload, err := json.Marshal(map[string]any{"iss": issuer, claim: map[string]any{"role": "1"}})
	if err != nil {
		t.Fatal(err)
	}
	signature := make([]byte, 64)
	_, _ = rand.Read(signature)
	parts := []string{`{"alg":"ES256","typ":"at+jwt"}`, string(payload), string(signature)}
	for i := range parts {
		parts[i] = base64.RawURLEncoding.EncodeToString([]byte(parts[i]))
	}
	return strings.Join(parts, ".")
}

// scan runs the command, and returns the exit code and what it printed.
func scan(t testing.TB, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, problems bytes.Buffer
	code = Run(t.Context(), args, strings.NewReader(stdin), &out, &problems)
	return code, out.String(), problems.String()
}

func write(t testing.TB, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Tokens are found wherever people put them, and the file, the line and no more of the token than its end are shown.
func TestFinds(t *testing.T) {
	t.Setenv("VAULT_TOKEN", "")
	refresh := &token.Claims{Generation: 1, GrantLifetime: time.Hour}
	for name, hide := range map[string]func(string) string{
		"yaml":              func(s string) string { return "api:\n  token: " + s + "\n" },
		"env":               func(s string) string { return "A=1\nAPI_TOKEN=" + s },
		"url":               func(s string) string { return "\ncurl 'https://x.example.com/?token=" + s + "&a=1'" },
		"json":              func(s string) string { return "{\n\"token\":\"" + s + "\"}" },
		"json with escapes": func(s string) string { return "\n" + `{"log":"first\n` + s + `\nlast"}` },
		"header":            func(s string) string { return "\nAuthorization: Bearer " + s + "\r\n" },
		"markdown":          func(s string) string { return "\n`" + s + "`" },
		"end of a sentence": func(s string) string { return "\nThe token is " + s + "." },
		"after a letter":    func(s string) string { return "\nx" + s },
		"before a word":     func(s string) string { return "\n" + s + "_old" },
		"base64":            func(s string) string { return "\ndata: " + base64.StdEncoding.EncodeToString([]byte("token: "+s)) },
		"base64 twice": func(s string) string {
			return "\ndata: " + base64.StdEncoding.EncodeToString([]byte(base64.StdEncoding.EncodeToString([]byte(s))))
		},
		"hexadecimal": func(s string) string { return "\ndata: " + hex.EncodeToString([]byte(s)) },
		"percent":     func(s string) string { return "\ndata: " + strings.ReplaceAll(url.QueryEscape(s), "_", "%5F") },
		"binary":      func(s string) string { return "\x7fELF\x00\x01\n\x00" + s + "\x00\xff" },
		"allowed":     func(s string) string { return "\n" + s + " # gitleaks:allow" },
	} {
		for kind, text := range map[string]string{
			"opaque": mint(t, "apt", nil), "refresh": mint(t, "apt", refresh), "JWT": mintJWT(t, "https://vault.example.com", token.EngineClaim),
		} {
			if kind == "JWT" && (name == "before a word" || name == "after a letter" || name == "json with escapes" || name == "percent") {
				continue // letters at the edge of a JWT belong to the JWT; a JWT has no character to encode
			}
			file := write(t, t.TempDir(), "f", hide(text))
			code, out, problems := scan(t, "", file)
			if code != exitFound || !strings.HasPrefix(out, filepath.ToSlash(file)+":2: ") || !strings.Contains(out, "..."+text[len(text)-4:]+": not verified") {
				t.Errorf("%s in %s: exit code %d\n%s%s", kind, name, code, out, problems)
			}
			if strings.Contains(out+problems, text[8:40]) {
				t.Errorf("%s in %s: the output has the token: %s%s", kind, name, out, problems)
			}
		}
	}
}

// A look-alike is no finding.
func TestFindsNothingElse(t *testing.T) {
	t.Setenv("VAULT_TOKEN", "")
	text := mint(t, "apt", nil)
	for name, s := range map[string]string{
		"a typing error": text[:50] + "x" + text[51:], "cut": text[:len(text)-1], "longer": text + "x", "another prefix": mint(t, "acme", nil),
		"a JWT of others": mintJWT(t, "https://vault.example.com", "role"), "no JWT": "eyJ" + strings.Repeat("a", 40) + ".eyJ" + strings.Repeat("b", 80) + "." + strings.Repeat("c", 80),
		"a hash": strings.Repeat("0123456789abcdef", 16), "nothing": "", "the prefix": "apt_get install",
	} {
		if code, out, _ := scan(t, s, "-"); code != exitNone || out != "" {
			t.Errorf("%s: exit code %d, %s", name, code, out)
		}
	}
}

// Other prefixes are found if they are named, or all.
func TestPrefixes(t *testing.T) {
	t.Setenv("VAULT_TOKEN", "")
	staging, production := mint(t, "apt_staging", nil), mint(t, "acme", nil)
	both := "a: " + staging + "\nb: x" + production + "\n"
	for flag, want := range map[string]int{"apt": 0, "acme": 1, "acme,apt_staging": 2, "any": 2} {
		code, out, _ := scan(t, both, "-prefix", flag, "-")
		if n := strings.Count(out, "\n"); n != want || (code == exitFound) != (want > 0) {
			t.Errorf("-prefix %s: exit code %d, %s", flag, code, out)
		}
	}
}

// Files are looked at in pieces: a token at any place is found once, with the right line.
func TestLongFiles(t *testing.T) {
	t.Setenv("VAULT_TOKEN", "")
	text := mint(t, "apt", nil)
	for _, fill := range []string{" ", "\n", "x"} {
		for _, at := range []int{0, chunk - len(text), chunk - len(text)/2, chunk - 1, chunk, chunk + 1, 2*chunk - overlap - 10, 3 * chunk} {
			before := strings.Repeat(fill, at)
			code, out, _ := scan(t, before+"-"+text+" "+strings.Repeat(fill, chunk/2), "-decode", "0", "-")
			if want := fmt.Sprintf("stdin:%d: ", 1+strings.Count(before, "\n")); code != exitFound || strings.Count(out, "\n") != 1 || !strings.HasPrefix(out, want) {
				t.Errorf("at %d after %q: exit code %d, %s", at, fill, code, out)
			}
		}
	}
}

// Folders are walked, links are not followed, and what cannot be read is an error.
func TestFolders(t *testing.T) {
	t.Setenv("VAULT_TOKEN", "")
	dir, text := t.TempDir(), mint(t, "apt", nil)
	write(t, dir, "a/deploy.sh", text)
	write(t, dir, "b/c/d.txt", text)
	write(t, dir, ".git/config", text)
	if err := os.Symlink(filepath.Join(dir, "a"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	code, out, problems := scan(t, "", dir)
	if code != exitFound || strings.Count(out, "\n") != 2 || !strings.Contains(out, "deploy.sh:1") || !strings.Contains(out, "d.txt:1") ||
		!strings.Contains(problems, "1 token found at 2 places: replace 1, and remove all from") {
		t.Errorf("exit code %d\n%s%s", code, out, problems)
	}
	if code, out, problems := scan(t, "", dir, filepath.Join(dir, "missing")); code != exitError || strings.Count(out, "\n") != 2 || !strings.Contains(problems, "missing") {
		t.Errorf("exit code %d\n%s%s", code, out, problems)
	}
	if code, out, _ := scan(t, "", write(t, dir, "e\n\x1b[31m", text)); code != exitFound || !strings.Contains(out, `e\n\x1b[31m":1: `) {
		t.Errorf("exit code %d, %q", code, out)
	}
}

func git(t testing.TB, dir string, args ...string) {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=a", "-c", "user.email=a@example.com"}, args...)...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("git %q: %v\n%s", args, err, out)
	}
}

// A token that a later commit has removed is found, with the commit that has added the token.
func TestHistory(t *testing.T) {
	t.Setenv("VAULT_TOKEN", "")
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("SKIPPED: there is no git")
	}
	dir, text, branched := t.TempDir(), mint(t, "apt", nil), mint(t, "apt", nil)
	git(t, dir, "init", "-q", "-b", "main")
	write(t, dir, "deploy.sh", "#!/bin/sh\ncurl -H 'Authorization: Bearer "+text+"'\n")
	git(t, dir, "add", ".")
	git(t, dir, "commit", "-q", "-m", "one")
	git(t, dir, "branch", "old")
	write(t, dir, "deploy.sh", "#!/bin/sh\n")
	git(t, dir, "commit", "-q", "-a", "-m", "two")
	git(t, dir, "checkout", "-q", "old")
	write(t, dir, "other.sh", branched)
	git(t, dir, "add", ".")
	git(t, dir, "commit", "-q", "-m", "three")
	git(t, dir, "checkout", "-q", "main")

	code, out, problems := scan(t, "", "-git", dir)
	if code != exitFound || strings.Count(out, "\n") != 2 || !strings.Contains(out, "deploy.sh:2 in commit ") || !strings.Contains(out, "other.sh:1 in commit ") {
		t.Errorf("exit code %d\n%s%s", code, out, problems)
	}
	if code, out, problems := scan(t, "", "-git", "-commits", "main~1..main", dir); code != exitNone || out != "" {
		t.Errorf("exit code %d\n%s%s", code, out, problems)
	}
	if code, out, _ := scan(t, "", "-git", "-commits", "old", dir); code != exitFound || strings.Count(out, "\n") != 2 {
		t.Errorf("exit code %d\n%s", code, out)
	}
	if code, _, problems := scan(t, "", "-git", t.TempDir()); code != exitError || !strings.Contains(problems, "not a git repository") || strings.Contains(problems, "no tokens found") || strings.Contains(problems, "\x1b") {
		t.Errorf("no repository: exit code %d, %s", code, problems)
	}
	if code, _, _ := scan(t, "", "-git", "-commits", "missing..main", dir); code != exitError {
		t.Errorf("no such commit: exit code %d", code)
	}
	t.Chdir(dir)
	if code, _, _ := scan(t, "", "-git"); code != exitFound {
		t.Errorf("the current folder: exit code %d", code)
	}
}

// A shallow clone lacks the commits that may have tokens: the scan says so, instead of no tokens found alone.
func TestShallowClone(t *testing.T) {
	t.Setenv("VAULT_TOKEN", "")
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("SKIPPED: there is no git")
	}
	dir, clone := t.TempDir(), filepath.Join(t.TempDir(), "clone")
	git(t, dir, "init", "-q", "-b", "main")
	write(t, dir, "deploy.sh", mint(t, "apt", nil))
	git(t, dir, "add", ".")
	git(t, dir, "commit", "-q", "-m", "one")
	write(t, dir, "deploy.sh", "nothing")
	git(t, dir, "commit", "-q", "-a", "-m", "two")
	git(t, dir, "clone", "-q", "--depth", "1", "file://"+dir, clone)

	const want = "is a shallow clone, and its older commits were not scanned: \"git fetch --unshallow\" gets them"
	if code, _, problems := scan(t, "", "-git", clone); code != exitNone || !strings.Contains(problems, clone+" "+want) {
		t.Errorf("a shallow clone: exit code %d, %s", code, problems)
	}
	if code, out, _ := scan(t, "", "-git", "-format", "sarif", clone); code != exitNone || strings.Contains(out, want) {
		t.Errorf("the warning is in the output: exit code %d, %s", code, out)
	}
	git(t, clone, "fetch", "-q", "--unshallow")
	for _, repository := range []string{dir, clone} {
		if code, _, problems := scan(t, "", "-git", repository); code != exitFound || strings.Contains(problems, "shallow") {
			t.Errorf("a whole repository: exit code %d, %s", code, problems)
		}
	}
	if _, _, problems := scan(t, "", clone); strings.Contains(problems, "shallow") {
		t.Errorf("files of a repository: %s", problems)
	}
}

func TestArguments(t *testing.T) {
	t.Setenv("VAULT_TOKEN", "")
	for want, args := range map[string][]string{
		"give paths to scan":                         {},
		"-format: \"xml\" is not text or sarif":      {"-format", "xml", "."},
		"-commits: is only for -git":                 {"-commits", "HEAD", "."},
		"-commits: \"--output=x\" is not a range":    {"-git", "-commits", "--output=x"},
		"-commits: \"HEAD --output=x\" is not a":     {"-git", "-commits", "HEAD --output=x"},
		"-decode: must be between 0 and 5":           {"-decode", "6", "."},
		"-revoke: needs the mount":                   {"-revoke", "-offline", "."},
		"- stands for standard input":                {"-", "x"},
		"\"-git\" comes after a path: give flags":    {".", "-git"},
		"-prefix: \"A\" must be 2 to 16":             {"-prefix", "A", "."},
		"flag provided but not defined: -everything": {"-everything"},
	} {
		if code, out, problems := scan(t, "", args...); code != exitError || out != "" || !strings.Contains(problems, want) {
			t.Errorf("%q: exit code %d, %s%s, want %s", args, code, out, problems, want)
		}
	}
	if code, out, _ := scan(t, "", "-help"); code != exitNone || !strings.Contains(out, "Exit codes:") || !strings.Contains(out, "-revoke") {
		t.Errorf("-help: exit code %d, %s", code, out)
	}
}

// vault answers as the engine does at lookup and leaked: the real engine is in backend/acceptance.
type vault struct {
	states   map[string]string
	reported []map[string]string
	status   int // of all answers; 0: 200
}

func (v *vault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if v.status != 0 {
		w.WriteHeader(v.status)
		_, _ = w.Write([]byte(`{"errors": ["permission denied"]}`))
		return
	}
	var in struct {
		Token  string
		Tokens []map[string]string
	}
	_ = json.NewDecoder(r.Body).Decode(&in)
	data := map[string]any{"state": v.states[in.Token], "role": "billing", "token_id": "5e79"}
	if strings.HasSuffix(r.URL.Path, "/leaked") {
		v.reported = append(v.reported, in.Tokens...)
		results := make([]any, len(in.Tokens))
		for i, reported := range in.Tokens {
			label := "false_positive"
			if v.states[reported["token"]] != "" {
				label = "true_positive"
			}
			results[i] = map[string]any{"label": label}
		}
		data = map[string]any{"results": results}
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"data": data})
}

func newVault(t *testing.T, states map[string]string) *vault {
	v := &vault{states: states}
	server := httptest.NewServer(v)
	t.Cleanup(server.Close)
	t.Setenv("VAULT_ADDR", server.URL)
	t.Setenv("VAULT_TOKEN", "x")
	t.Setenv("VAULT_MAX_RETRIES", "0")
	return v
}

// The mount says what the tokens are. Dead tokens are shown, and fail nothing.
func TestAsksTheMount(t *testing.T) {
	alive, expired, foreign := mint(t, "apt", nil), mint(t, "apt", nil), mint(t, "apt", nil)
	v := newVault(t, map[string]string{alive: "active", expired: "expired", foreign: "wrong_environment"})
	code, out, problems := scan(t, expired, "-")
	if code != exitNone || !strings.Contains(out, ": expired, role billing, token_id 5e79") || !strings.Contains(problems, "1 token found at 1 place, none of them alive") {
		t.Errorf("exit code %d\n%s%s", code, out, problems)
	}
	if code, out, _ = scan(t, alive+"\n"+alive, "-"); code != exitFound || strings.Count(out, ": active, role billing") != 2 {
		t.Errorf("exit code %d\n%s", code, out)
	}
	if code, out, _ = scan(t, foreign, "-"); code != exitFound || !strings.Contains(out, "of another mount") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	if code, out, _ = scan(t, expired, "-offline", "-"); code != exitFound || !strings.Contains(out, "not verified") {
		t.Errorf("offline: exit code %d\n%s", code, out)
	}
	if len(v.reported) > 0 {
		t.Errorf("reported without -revoke: %v", v.reported)
	}
	v.status = http.StatusForbidden
	if code, out, problems = scan(t, alive, "-"); code != exitError || !strings.Contains(out, "not verified") || !strings.Contains(problems, "does the policy of VAULT_TOKEN allow it?") {
		t.Errorf("exit code %d\n%s%s", code, out, problems)
	}
}

// Only tokens that may be alive are reported, each once, with their places, and in requests of at most 100.
func TestRevokes(t *testing.T) {
	states := make(map[string]string)
	var all strings.Builder
	for range 101 {
		text := mint(t, "apt", nil)
		states[text] = "active"
		all.WriteString(text + "\n" + text + "\n")
	}
	expired, foreign := mint(t, "apt", nil), mint(t, "apt", nil)
	states[expired], states[foreign] = "expired", "wrong_environment"
	v := newVault(t, states)
	code, out, problems := scan(t, all.String()+expired+"\n"+foreign, "-revoke", "-")
	if code != exitFound || len(v.reported) != 101 || strings.Count(out, "revoked by this scan") != 202 {
		t.Errorf("exit code %d, %d reported\n%s%s", code, len(v.reported), out[:min(len(out), 500)], problems)
	}
	if r := v.reported[0]; r["url"] != "stdin:1" || r["source"] != "apitoken scan" || r["type"] != ruleOpaque {
		t.Errorf("reported %v", r)
	}

	// Without a Vault token the answer tells which tokens are of the mount.
	t.Setenv("VAULT_TOKEN", "")
	stranger := mint(t, "apt", nil)
	code, out, _ = scan(t, expired+"\n"+stranger, "-revoke", "-")
	if code != exitFound || !strings.Contains(out, "stdin:1: apt_..."+expired[len(expired)-4:]+": revoked by this scan") || !strings.Contains(out, "of another mount") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	v.status = http.StatusForbidden
	if code, _, problems := scan(t, expired, "-revoke", "-"); code != exitError || !strings.Contains(problems, "revoking tokens at the mount") {
		t.Errorf("exit code %d, %s", code, problems)
	}
}

func TestSARIF(t *testing.T) {
	alive, expired := mint(t, "apt", nil), mint(t, "apt", nil)
	newVault(t, map[string]string{alive: "active", expired: "expired"})
	file := write(t, t.TempDir(), "a b.txt", "\n"+alive+"\n"+expired)
	code, out, problems := scan(t, "", "-format", "sarif", file)
	var log sarifLog
	if err := json.Unmarshal([]byte(out), &log); err != nil || code != exitFound || problems != "" {
		t.Fatalf("exit code %d, %v, %s\n%s", code, err, problems, out)
	}
	results := log.Runs[0].Results
	if log.Version != "2.1.0" || len(results) != 2 || results[0].Level != "error" || results[1].Level != "note" || results[0].RuleID != log.Runs[0].Tool.Driver.Rules[0].ID {
		t.Fatalf("%s", out)
	}
	at := results[0].Locations[0].Physical
	if at.Region.StartLine != 2 || !strings.HasSuffix(at.Artifact.URI, "/a%20b.txt") || results[0].Properties["role"] != "billing" || len(results[0].Fingerprints["tokenHash/v1"]) != 64 {
		t.Errorf("%s", out)
	}
	if strings.Contains(out, alive[8:40]) {
		t.Error("the output has a token")
	}
	if code, out, _ := scan(t, "", "-format", "sarif", write(t, t.TempDir(), "f", "")); code != exitNone || !strings.Contains(out, `"results": []`) {
		t.Errorf("exit code %d, %s", code, out)
	}
}

// What is found for any bytes is a token by its checksum or by its claim.
func FuzzFinds(f *testing.F) {
	f.Add([]byte("apt_" + strings.Repeat("0", 90)))
	f.Add([]byte("eyJhbGciOiJFUzI1NiJ9.eyJ1cm46dmF1bHQtYXBpdG9rZW4iOnt9fQ." + strings.Repeat("a", 60)))
	finder := newFinder(context.Background(), nil, 2)
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := finder.stream(t.Context(), "f", bytes.NewReader(text)); err != nil {
			t.Fatal(err)
		}
		for _, one := range finder.sorted() {
			if !token.Checksum(one.text) && !token.IsJWT(one.text) || strings.Contains(one.shown(), one.text) {
				t.Errorf("found %q, shown as %q", one.text, one.shown())
			}
		}
	})
}
