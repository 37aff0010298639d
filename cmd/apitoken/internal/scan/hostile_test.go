package scan

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"

	"go.yaml.in/yaml/v3"
)

// No output has a token that is part of a name, or that the user gave as an argument.
func TestNamesWithTokens(t *testing.T) {
	t.Setenv("VAULT_TOKEN", "")
	dir, text, other := t.TempDir(), mint(t, "apt", nil), mint(t, "apt", nil)
	file := write(t, dir, text+"/"+text+".txt", other)
	for name, args := range map[string][]string{
		"text": {file}, "sarif": {"-format", "sarif", file}, "folder": {dir}, "missing": {filepath.Join(dir, text) + "x/" + text}, "as a path": {text},
		"as a prefix": {"-prefix", text, dir}, "as a format": {"-format", text, dir}, "as a flag": {"-" + text}, "as commits": {"-git", "-commits", text + ":", dir},
		"as a repository": {"-git", filepath.Join(dir, text)},
	} {
		_, out, problems := scan(t, "", args...)
		if strings.Contains(out+problems, text) {
			t.Errorf("%s: the output has a token:\n%s%s", name, out, problems)
		}
	}
	v := newVault(t, map[string]string{other: "active"})
	if _, out, _ := scan(t, "", "-revoke", file); strings.Contains(out, text) || len(v.reported) != 1 || strings.Contains(v.reported[0]["url"], text) {
		t.Errorf("%s\n%v", out, v.reported)
	}
}

// Texts of Windows programs have two bytes for each character.
func TestUTF16(t *testing.T) {
	t.Setenv("VAULT_TOKEN", "")
	text := mint(t, "apt", nil)
	for _, low := range []int{0, 1} {
		var wide strings.Builder
		for _, unit := range utf16.Encode([]rune("\ufeff\ntoken: " + text + "\n")) {
			pair := [2]byte{byte(unit), byte(unit >> 8)}
			wide.WriteByte(pair[low])
			wide.WriteByte(pair[1-low])
		}
		if code, out, _ := scan(t, wide.String(), "-"); code != exitFound || strings.Count(out, "\n") != 1 || !strings.HasPrefix(out, "stdin:2: ") {
			t.Errorf("exit code %d\n%s", code, out)
		}
	}
}

// The settings of git, of a repository and of its files hide nothing.
func TestHistoryOfAnyForm(t *testing.T) {
	t.Setenv("VAULT_TOKEN", "")
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("SKIPPED: there is no git")
	}
	dir := t.TempDir()
	git(t, dir, "init", "-q", "-b", "main")
	names := []string{"plain.sh", "binary", "attribute.env", "a b/c.txt", "x b/x", "tab\t", "quote\"", "new\nline", "ä.txt", "-dash", "con:text", "last/--- a", "z"}
	for _, name := range names {
		body := "one\n+++ b/x\n" + mint(t, "apt", nil) + "\n"
		if name == "binary" {
			body = "\x00\x01\n\n" + mint(t, "apt", nil) + "\x00\xff"
		}
		write(t, dir, name, body)
	}
	write(t, dir, ".gitattributes", "*.env -diff\n*.txt binary\n")
	git(t, dir, "add", ".")
	git(t, dir, "commit", "-q", "-m", "one\n\ndiff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n")
	for _, setting := range []string{
		"", "color.ui=always", "diff.noprefix=true", "diff.mnemonicPrefix=true", "format.pretty=oneline", "log.date=relative", "log.showRoot=false",
		"log.decorate=full", "diff.renames=copies", "core.quotePath=false", "log.showSignature=true", "diff.interHunkContext=5",
	} {
		config := write(t, t.TempDir(), "config", "")
		if setting != "" {
			name, value, _ := strings.Cut(setting, "=")
			if out, err := exec.Command("git", "config", "-f", config, name, value).CombinedOutput(); err != nil {
				t.Fatal(string(out), err)
			}
		}
		t.Setenv("GIT_CONFIG_GLOBAL", config)
		for _, commits := range []string{"", "main"} {
			args := []string{"-git", dir}
			if commits != "" {
				args = []string{"-git", "-commits", commits, dir}
			}
			code, out, problems := scan(t, "", args...)
			if code != exitFound || strings.Count(out, "\n") != len(names) || strings.Count(out, " in commit ") != len(names) {
				t.Errorf("%q %q: exit code %d, %d found\n%s%s", setting, commits, code, strings.Count(out, "\n"), out, problems)
			}
		}
	}
}

// An answer that is none is an error, and what was found is printed.
func TestRevokesNothing(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	t.Cleanup(server.Close)
	t.Setenv("VAULT_ADDR", server.URL)
	t.Setenv("VAULT_TOKEN", "")
	code, out, problems := scan(t, mint(t, "apt", nil), "-revoke", "-")
	if code != exitError || strings.Count(out, "\n") != 1 || !strings.Contains(problems, "the answer is empty") {
		t.Errorf("exit code %d\n%s%s", code, out, problems)
	}
}

// The hook scans files whose names look like flags.
func TestHook(t *testing.T) {
	t.Setenv("VAULT_TOKEN", "")
	text, err := os.ReadFile("../../../../.pre-commit-hooks.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var hooks []struct{ Entry string }
	if err := yaml.Unmarshal(text, &hooks); err != nil || len(hooks) != 1 {
		t.Fatal(err)
	}
	args := strings.Fields(strings.TrimPrefix(hooks[0].Entry, "apitoken scan "))
	t.Chdir(t.TempDir())
	for _, name := range []string{"-help", "-decode=0", "--", "-format=sarif", "plain"} {
		write(t, ".", name, "x")
		write(t, ".", "leak", mint(t, "apt", nil))
		code, out, problems := scan(t, "", append(args[:len(args):len(args)], name, "leak")...)
		if code != exitFound || !strings.HasPrefix(out, "leak:1: ") {
			t.Errorf("%s: exit code %d\n%s%s", name, code, out, problems)
		}
		write(t, ".", name, mint(t, "apt", nil))
		if code, out, problems := scan(t, "", append(args[:len(args):len(args)], name)...); code != exitFound || !strings.HasPrefix(out, name+":1: ") {
			t.Errorf("%s: exit code %d\n%s%s", name, code, out, problems)
		}
	}
}

// The address of a file in SARIF is relative, whatever the name of the file is.
func TestSARIFNames(t *testing.T) {
	t.Setenv("VAULT_TOKEN", "")
	t.Chdir(t.TempDir())
	for name, want := range map[string]string{"https:x": "./https:x", "a b%20?#": "a%20b%2520%3F%23", "d/c:x": "d/c:x", "\xff": "%FF"} {
		write(t, ".", name, mint(t, "apt", nil))
		_, out, _ := scan(t, "", "-format", "sarif", name)
		if !strings.Contains(out, `"uri": "`+want+`"`) {
			t.Errorf("%q, want %s:\n%s", name, want, out)
		}
	}
}
