package scan

import (
	"bytes"
	"context"
	"flag"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/viper"
	"github.com/zricethezav/gitleaks/v8/config"
	"github.com/zricethezav/gitleaks/v8/detect"
	"go.yaml.in/yaml/v3"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

const scanners = "../../../../bootstrap/scanners/"

// ofGitleaks returns the detector of a rule file, as gitleaks reads the file.
func ofGitleaks(t testing.TB, name string) *detect.Detector {
	t.Helper()
	text, err := os.ReadFile(scanners + name)
	if err != nil {
		t.Fatal(err)
	}
	v := viper.New()
	v.SetConfigType("toml")
	var file config.ViperConfig
	if err := v.ReadConfig(bytes.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	if err := v.UnmarshalExact(&file); err != nil { // an unknown field is an error
		t.Fatal(err)
	}
	c, err := file.Translate()
	if err != nil {
		t.Fatal(err)
	}
	return detect.NewDetectorContext(t.Context(), c)
}

// The forms of trufflehog.yaml, as pkg/custom_detectors/CUSTOM_DETECTORS.md and proto/custom_detectors.proto document them, and of
// github-custom-pattern.yaml, as GitHub's settings name the fields.
type (
	trufflehogFile struct {
		Detectors []struct {
			Name     string
			Keywords []string
			Regex    map[string]string
			Verify   []struct {
				Endpoint      string
				Headers       []string
				SuccessRanges []string `yaml:"successRanges"`
				RotatedRanges []string `yaml:"rotatedRanges"`
			}
		}
	}
	githubFile struct {
		Patterns []struct {
			Name      string
			Secret    string   `yaml:"secret_format"`
			Before    string   `yaml:"before_secret"`
			After     string   `yaml:"after_secret"`
			MustMatch []string `yaml:"must_match"`
		}
	}
)

func readYAML(t testing.TB, name string, into any) {
	t.Helper()
	file, err := os.Open(scanners + name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	decoder := yaml.NewDecoder(file)
	decoder.KnownFields(true)
	if err := decoder.Decode(into); err != nil {
		t.Fatal(err)
	}
}

// patterns returns what each rule file finds in a text.
func patterns(t testing.TB) map[string]func(string) []string {
	finds := make(map[string]func(string) []string)
	for _, name := range []string{"gitleaks.toml", "betterleaks.toml"} {
		d := ofGitleaks(t, name)
		finds[name] = func(text string) (found []string) {
			for _, f := range d.DetectString(text) {
				found = append(found, f.Secret)
			}
			return found
		}
	}
	var hog trufflehogFile
	readYAML(t, "trufflehog.yaml", &hog)
	finds["trufflehog.yaml"] = func(text string) (found []string) {
		for _, d := range hog.Detectors {
			if !slices.ContainsFunc(d.Keywords, func(k string) bool { return strings.Contains(strings.ToLower(text), strings.ToLower(k)) }) {
				continue
			}
			for _, pattern := range d.Regex {
				for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
					found = append(found, m[1])
				}
			}
		}
		return found
	}
	var hub githubFile
	readYAML(t, "github-custom-pattern.yaml", &hub)
	finds["github-custom-pattern.yaml"] = func(text string) (found []string) {
		for _, p := range hub.Patterns {
			whole := regexp.MustCompile("(?:" + p.Before + ")(?P<secret>" + p.Secret + ")(?:" + p.After + ")")
			for _, m := range whole.FindAllStringSubmatch(text, -1) {
				if !slices.ContainsFunc(p.MustMatch, func(must string) bool { return !regexp.MustCompile(must).MatchString(m[1]) }) {
					found = append(found, m[1])
				}
			}
		}
		return found
	}
	return finds
}

// Every rule file finds every kind of token whole, and not what looks like one.
func TestRuleFiles(t *testing.T) {
	planted := []string{mint(t, "apt", nil), mint(t, "apt", &token.Claims{Generation: 1, GrantLifetime: time.Hour}),
		mint(t, "apt", &token.Claims{Scopes: []string{strings.Repeat("invoices:read ", 40)}})}
	for _, issuer := range []string{"https://a", "https://ab", "https://abc"} { // the claim begins at each place modulo 3
		planted = append(planted, mintJWT(t, issuer, token.EngineClaim))
	}
	for name, finds := range patterns(t) {
		for _, text := range planted {
			for _, around := range []string{"token: TOKEN\n", "A=TOKEN\n", "https://x.example.com/?t=TOKEN&a=1", `{"token":"TOKEN"}`, "'TOKEN'"} {
				if found := finds(strings.Replace(around, "TOKEN", text, 1)); !slices.Equal(found, []string{text}) {
					t.Errorf("%s in %q: found %q, want %q", name, around, found, text)
				}
			}
		}
		for _, text := range []string{"apt_get install", "apt_" + strings.Repeat("a", 79), mintJWT(t, "https://a", "role"), mint(t, "acme", nil), "captain_" + strings.Repeat("a1B", 40)} {
			if found := finds(" " + text + " "); len(found) > 0 {
				t.Errorf("%s: found %q in %q", name, found, text)
			}
		}
	}
}

// The detectors of TruffleHog ask apitoken-authz, and take its statuses for what they are.
func TestTruffleHogVerifies(t *testing.T) {
	var hog trufflehogFile
	readYAML(t, "trufflehog.yaml", &hog)
	for _, d := range hog.Detectors {
		if len(d.Verify) != 1 {
			t.Fatalf("%s: %d verifiers", d.Name, len(d.Verify))
		}
		v := d.Verify[0]
		if !strings.HasPrefix(v.Endpoint, "https://") || !strings.HasSuffix(v.Endpoint, "/scanner/verify") || !strings.HasPrefix(v.Headers[0], "Authorization: Bearer ") ||
			!reflect.DeepEqual(v.SuccessRanges, []string{"200"}) || !reflect.DeepEqual(v.RotatedRanges, []string{"404"}) {
			t.Errorf("%s: %+v", d.Name, v)
		}
	}
}

var modcache = flag.Duration("scan.modcache", 3*time.Second, "how long the module cache is searched for false positives; 0: all of it")

var decode = flag.Int("scan.decode", 2, "how often the search for false positives decodes")

// Nothing in the source code of others is taken for a token. Each run looks at other modules, for a bounded time.
func TestNoFalsePositives(t *testing.T) {
	out, err := exec.Command("go", "env", "GOMODCACHE").Output()
	root := strings.TrimSpace(string(out))
	if err != nil || root == "" {
		t.Skip("SKIPPED: there is no go command")
	}
	var modules []string // folders whose names end with a version
	_ = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() || path == filepath.Join(root, "cache") {
			return fs.SkipDir
		}
		if strings.Contains(entry.Name(), "@") {
			modules = append(modules, path)
			return fs.SkipDir
		}
		return nil
	})
	if len(modules) == 0 {
		t.Skip("SKIPPED: the module cache is empty")
	}
	rand.Shuffle(len(modules), func(i, j int) { modules[i], modules[j] = modules[j], modules[i] })
	rules := ofGitleaks(t, "gitleaks.toml") // betterleaks.toml has the same
	finder := newFinder(context.Background(), nil, *decode)
	began, seen, files := time.Now(), int64(0), 0
	for _, module := range modules {
		if *modcache > 0 && time.Since(began) > *modcache {
			break
		}
		_ = filepath.WalkDir(module, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return nil
			}
			if *modcache > 0 && time.Since(began) > *modcache {
				return fs.SkipAll
			}
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			seen, files = seen+int64(len(text)), files+1
			if err := finder.stream(t.Context(), path, bytes.NewReader(text)); err != nil {
				t.Fatal(err)
			}
			for _, f := range rules.DetectString(string(text)) {
				t.Errorf("gitleaks.toml finds %s in %s:%d", f.RuleID, path, f.StartLine+1)
			}
			return nil
		})
	}
	for _, f := range finder.sorted() {
		t.Errorf("found %s in %s", f.shown(), f.place())
	}
	t.Logf("searched %d files, %d MB, in %s", files, seen>>20, time.Since(began).Round(time.Second))
}
