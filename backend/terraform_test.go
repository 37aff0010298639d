package backend

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

const terraformVariables = "../bootstrap/terraform/variables.tf"

// bootstrap/terraform refuses the fields that it does not list, so that it must list those that the engine has.
func TestTerraformKnowsTheFieldsOfARole(t *testing.T) {
	text, err := os.ReadFile(terraformVariables)
	if err != nil {
		t.Fatal(err)
	}
	list := regexp.MustCompile(`(?s)role_fields = \[(.*?)\]`).FindStringSubmatch(string(text))
	if list == nil {
		t.Fatalf("%s has no role_fields", terraformVariables)
	}
	var known []string
	for _, quoted := range regexp.MustCompile(`"(\w+)"`).FindAllStringSubmatch(list[1], -1) {
		known = append(known, quoted[1])
	}
	fields := maps.Clone(newEngine(t).b.Route("roles/x").Fields)
	delete(fields, "name")
	if want := slices.Sorted(maps.Keys(fields)); !slices.Equal(known, want) {
		t.Errorf("role_fields is\n%q\na role has\n%q", known, want)
	}
}

// Terraform itself says whether a misspelt restriction fails the plan. The variables alone need no provider.
func TestTerraformRefusesUnknownFields(t *testing.T) {
	terraform, err := exec.LookPath("terraform")
	if err != nil {
		t.Skip("there is no terraform")
	}
	dir := t.TempDir()
	text, err := os.ReadFile(terraformVariables)
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, "\noutput \"roles\" {\n  value = var.roles\n}\n"...)
	if err := os.WriteFile(filepath.Join(dir, "variables.tf"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) (string, error) {
		cmd := exec.Command(terraform, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "CHECKPOINT_DISABLE=1", "TF_CLI_CONFIG_FILE="+os.DevNull)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := run("init", "-no-color"); err != nil {
		t.Fatal(out, err)
	}
	for _, c := range []struct{ roles, want string }{
		{`{reader = {scopes = ["a"], token_bound_cidr = ["10.0.0.0/8"]}, writer = {scopes = ["b"], ttl = 60}}`, "Not a field of a role: reader.token_bound_cidr."},
		{`{reader = {scopes = ["a"], token_format = "jwt", bound_hosts = ["x.example.com"], metadata = {a = "b"}, max_tokens = 5}, empty = {}}`, ""},
		{`["reader"]`, "Must be a map from the names of roles to their fields."},
		{`{reader = "a"}`, "Must be a map from the names of roles to their fields."},
	} {
		out, err := run("plan", "-no-color", "-input=false", "-var=roles="+c.roles)
		if c.want == "" && (err != nil || !strings.Contains(out, "bound_hosts")) {
			t.Errorf("%s: %v\n%s", c.roles, err, out)
		}
		if c.want != "" && (err == nil || !strings.Contains(out, c.want)) {
			t.Errorf("%s is accepted, or refused without %q: %s", c.roles, c.want, fmt.Sprint(out, err))
		}
	}
}

// policy returns the capabilities of each path of a text in the language of Vault's policies, sorted.
func policy(text string) map[string][]string {
	paths := make(map[string][]string)
	text = strings.ReplaceAll(text, "${vault_mount.apitoken.path}", "apitoken")
	for _, block := range regexp.MustCompile(`path "apitoken/([^"]+)"\s*\{\s*capabilities\s*=\s*\[([^\]]+)\]`).FindAllStringSubmatch(text, -1) {
		for quoted := range strings.SplitSeq(block[2], ",") {
			if name := strings.Trim(quoted, `" `); !slices.Contains(paths[block[1]], name) {
				paths[block[1]] = append(paths[block[1]], name)
			}
		}
		slices.Sort(paths[block[1]])
	}
	return paths
}

// Each policy of docs/setup.md and of bootstrap names paths of the engine with operations that the paths have. Terraform's
// policies are those of docs/setup.md.
func TestPolicies(t *testing.T) {
	operations := map[string]logical.Operation{
		"create": logical.CreateOperation, "read": logical.ReadOperation, "update": logical.UpdateOperation,
		"delete": logical.DeleteOperation, "list": logical.ListOperation,
	}
	e := newEngine(t)
	has := func(path, capability string) bool {
		for _, sample := range []string{"", "x", "rotate", "orphans", "x/test"} { // what * may stand for
			p := e.b.Route(strings.NewReplacer("*", sample, "+", "x").Replace(path))
			if p != nil && p.Operations[operations[capability]] != nil {
				return true
			}
		}
		return false
	}
	const setup, terraform = "../docs/setup.md", "../bootstrap/terraform/policies.tf"
	policies := make(map[string]map[string][]string)
	for _, file := range []string{
		setup, terraform, "../bootstrap/authz/policy.hcl", "../bootstrap/console/policy.hcl", "../bootstrap/monitoring/policy.hcl",
	} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		policies[file] = policy(string(text))
		for path, capabilities := range policies[file] {
			for _, capability := range capabilities {
				if !has(path, capability) && !strings.HasPrefix(path, "creds/") {
					t.Errorf("%s: no path of the engine is %s with %s", file, path, capability)
				}
			}
		}
		for _, path := range []string{"leaked", "*"} { // leaked takes no Vault token
			if policies[file][path] != nil {
				t.Errorf("%s allows %s", file, path)
			}
		}
	}
	maps.DeleteFunc(policies[setup], func(path string, _ []string) bool { return strings.HasPrefix(path, "creds/") })
	if !maps.EqualFunc(policies[setup], policies[terraform], slices.Equal) {
		t.Errorf("docs/setup.md has the policies\n%v\nand Terraform has\n%v", policies[setup], policies[terraform])
	}
	for path, capability := range map[string]string{
		"alerts/*": "create", "findings/*": "update", "metrics": "read", "connections/+/reconcile": "update", "report/*": "read",
	} {
		if !slices.Contains(policies[setup][path], capability) {
			t.Errorf("no policy allows %s of %s", capability, path)
		}
	}
}
