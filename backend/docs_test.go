package backend

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/detect"
)

// Each Go file that docs/architecture.md names exists, and has the functions that stand behind the file's name.
func TestArchitecture(t *testing.T) {
	text, err := os.ReadFile("../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	rooms, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range rooms {
		room := entry.Name()
		row := regexp.MustCompile("(?m)^\\| (`\\w+`, )?`" + room + "`(, `\\w+`)? \\|")
		if entry.IsDir() && room != "simulation" && room != "acceptance" && !row.Match(text) { // these two have tests only
			t.Errorf("the room %s has no row", room)
		}
	}
	named := regexp.MustCompile("[`\"]([\\w/-]+\\.go)(?:`: ((?:`[\\w.]+`(?:, )?)+))?").FindAllStringSubmatch(string(text), -1)
	if len(named) < 10 {
		t.Errorf("only %d files are named", len(named))
	}
	for _, n := range named {
		path := strings.TrimPrefix(n[1], "backend/")
		if strings.HasPrefix(path, "cmd/") || strings.HasPrefix(path, "scripts/") {
			path = "../" + path
		}
		source, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
			continue
		}
		for function := range strings.SplitSeq(n[2], ", ") {
			function = strings.Trim(function, "`")
			function = function[strings.LastIndex(function, ".")+1:]
			if function != "" && !regexp.MustCompile(`(?m)^func .*\b`+function+`\(`).Match(source) {
				t.Errorf("%s has no function %s", n[1], function)
			}
		}
	}
}

// The log lines and errors that docs/setup.md tells operators to watch are those of the code.
func TestWatchedTexts(t *testing.T) {
	var source strings.Builder
	err := filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		source.Write(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	setup, err := os.ReadFile("../docs/setup.md")
	if err != nil {
		t.Fatal(err)
	}
	docs := strings.Join(strings.Fields(string(setup)), " ")
	for _, text := range []string{
		"the storage of this mount cannot be written",
		"tokens of disabled or deleted entities revoked",
		"stored entry cannot be read",
		"misuse of a token found",
		"alert not delivered",
		"upstream tokens not revoked",
		"static role not rotated",
		"geoip_database cannot be read",
	} {
		if !strings.Contains(docs, "`"+text+"`") || !strings.Contains(source.String(), text) {
			t.Errorf("%q is not both in docs/setup.md and in the code", text)
		}
	}
}

// Docs that say how many rules of misuse there are have the number that there are.
func TestNumberOfRules(t *testing.T) {
	words := []string{
		"ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
	}
	files, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	said := 0
	for _, file := range append(files, "../README.md", "../CHANGELOG.md") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range regexp.MustCompile(`(?i)\b(`+strings.Join(words, "|")+`)\s+rules\b`).FindAllStringSubmatch(string(text), -1) {
			if said++; slices.Index(words, strings.ToLower(n[1])) != len(detect.Rules)-10 {
				t.Errorf("%s says %q, and there are %d", file, n[0], len(detect.Rules))
			}
		}
	}
	if said < 2 {
		t.Errorf("only %d places say how many rules there are", said)
	}
}
