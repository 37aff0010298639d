package backend

import (
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The requirements that docs/compliance.md answers, by the numbers of their catalogues.
var requirements = map[string]string{
	"ASVS": "9.1.1 9.1.2 9.1.3 9.2.1 9.2.2 9.2.3 9.2.4 10.1.1 10.3.1 10.3.2 10.3.3 10.3.4 10.3.5 10.4.5 10.4.8 10.4.9 10.4.10 10.4.11 10.4.14 " +
		"7.2.2 7.2.3 7.3.1 7.3.2 7.4.1 7.4.2 7.4.5 8.1.3 8.1.4 8.2.4 8.3.2 8.3.3 4.1.3 4.2.1 4.2.2 4.2.3 4.2.4 4.2.5 6.3.5 6.3.8 " +
		"11.1.1 11.1.2 11.1.3 11.1.4 11.3.4 11.5.1 13.1.4 13.2.1 13.3.1 13.3.2 13.3.3 13.3.4 " +
		"16.1.1 16.2.1 16.2.2 16.2.3 16.2.4 16.2.5 16.3.1 16.3.2 16.3.3 16.4.1 16.5.2 16.5.3",
	"NHI":  "NHI1 NHI2 NHI3 NHI4 NHI5 NHI6 NHI7 NHI8 NHI9 NHI10",
	"API":  "API2 API4 API5 API8 API9 API10",
	"NIST": "AC-2(1) AC-2(3) AC-2(12) AC-6(1) AC-6(5) AC-6(7) AC-6(9) AC-7 AU-2 AU-3 AU-6 AU-12 IA-5(1) IA-5(2) IA-5(7) IA-5(13) IA-9 SC-12 SC-13 SI-4",
}

// A row of docs/compliance.md: id, question, status, answer, tests.
var requirementRow = regexp.MustCompile(`(?m)^\| ([A-Z0-9][\w.()-]*) \| ([^|]+) \| (yes|partly|no|operator|platform) \| ([^|]+) \| ([^|]+) \|$`)

// Each requirement has one row. A row that claims something names tests, each of which exists, and a row that claims nothing names none.
func TestCompliance(t *testing.T) {
	text, err := os.ReadFile("../docs/compliance.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]int{}
	named := regexp.MustCompile("^`([\\w/-]+)\\.((?:Test|Fuzz|Example)\\w*)(?:/(\\w+))?`$")
	for _, row := range requirementRow.FindAllStringSubmatch(string(text), -1) {
		id, status, tests := row[1], row[3], row[5]
		rows[id]++
		if claims := status == "yes" || status == "partly"; claims == (tests == "-") {
			t.Errorf("%s is %q with the tests %q", id, status, tests)
		}
		for name := range strings.SplitSeq(tests, ", ") {
			if name == "-" {
				continue
			}
			n := named.FindStringSubmatch(name)
			if n == nil || !hasTest(t, n[1], n[2], n[3]) {
				t.Errorf("%s: there is no test %s", id, name)
			}
		}
	}
	for catalogue, ids := range requirements {
		for id := range strings.FieldsSeq(ids) {
			if rows[id] != 1 {
				t.Errorf("%s %s has %d rows", catalogue, id, rows[id])
			}
			delete(rows, id)
		}
	}
	if len(rows) > 0 {
		t.Errorf("not in the list of requirements: %v", slices.Sorted(maps.Keys(rows)))
	}
	if lines := strings.Count(string(text), "| yes |") + strings.Count(string(text), "| partly |"); lines < 80 {
		t.Errorf("only %d rows have a test", lines)
	}
}

// hasTest reports whether a package has a test function; script is a file of testdata of TestScripts.
func hasTest(t *testing.T, folder, function, script string) bool {
	t.Helper()
	files, err := filepath.Glob("../" + folder + "/*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		found = found || strings.Contains(string(source), "\nfunc "+function+"(")
	}
	if script != "" {
		_, err := os.Stat("../" + folder + "/testdata/" + script + ".txtar")
		found = found && err == nil
	}
	return found
}

// eachImport calls visit with the packages that the code of each file imports, without tests and without what only tests use.
func eachImport(t *testing.T, visit func(file, name string)) {
	t.Helper()
	for _, top := range []string{".", "../cmd"} {
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && (d.Name() == "simulation" || strings.HasSuffix(d.Name(), "test")):
				return fs.SkipDir
			case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
				return nil
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
			if err != nil {
				return err
			}
			for _, spec := range file.Imports {
				visit(filepath.Join("backend", path), strings.Trim(spec.Path.Value, `"`))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// The table of docs/compliance.md has the packages that use cryptography, and what each uses, apart from TLS.
func TestCryptographyInUse(t *testing.T) {
	text, err := os.ReadFile("../docs/compliance.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Cryptography in use\n")
	section, _, _ = strings.Cut(section, "\n## ")
	listed := map[string][]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([\\w/-]+)` \\| (`[^|]+) \\|").FindAllStringSubmatch(section, -1) {
		for use := range strings.SplitSeq(row[2], ", ") {
			listed[row[1]] = append(listed[row[1]], strings.Trim(use, "`"))
		}
		slices.Sort(listed[row[1]])
	}
	used := map[string][]string{}
	eachImport(t, func(file, name string) {
		folder := filepath.Dir(file)
		primitive, of := strings.CutPrefix(name, "crypto/")
		switch {
		case strings.HasPrefix(name, "github.com/go-jose/go-jose/") && !strings.HasSuffix(name, "/json"):
			primitive = "go-jose"
		case strings.HasPrefix(name, "golang.org/x/crypto/"):
			primitive = strings.TrimPrefix(name, "golang.org/")
		case !of || primitive == "tls" || strings.HasPrefix(primitive, "x509"):
			return
		}
		if !slices.Contains(used[folder], primitive) {
			used[folder] = append(used[folder], primitive)
		}
	})
	for folder := range used {
		slices.Sort(used[folder])
		if !slices.Equal(used[folder], listed[folder]) {
			t.Errorf("%s uses %q, and docs/compliance.md lists %q", folder, used[folder], listed[folder])
		}
		delete(listed, folder)
	}
	if len(listed) > 0 {
		t.Errorf("docs/compliance.md lists %v, which use no cryptography", listed)
	}
}

// math/rand serves where nobody gains by a guess: it spreads retries, and places entries of a cache.
func TestRandomness(t *testing.T) {
	harmless := map[string]string{
		"backend/upstream/queue.go": "rand.Int64N(", "backend/alert/run.go": "rand.Int64N(", "backend/verify/recent.go": "rand.Uint32N(",
	}
	eachImport(t, func(file, name string) {
		if _, ok := harmless[file]; !ok && strings.HasPrefix(name, "math/rand") {
			t.Errorf("%s uses math/rand", file)
		}
	})
	for file, want := range harmless {
		source, err := os.ReadFile("../" + file)
		if err != nil {
			t.Fatal(err)
		}
		if calls := regexp.MustCompile(`\brand\.\w+\(`).FindAllString(string(source), -1); !slices.Equal(calls, []string{want}) {
			t.Errorf("%s calls %q", file, calls)
		}
	}
}
