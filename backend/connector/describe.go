package connector

import (
	"fmt"
	"slices"
	"strings"
)

// DescribeFields returns a description of each field in one line.
func DescribeFields(fields map[string]Field) map[string]any {
	described := make(map[string]any, len(fields))
	for name, f := range fields {
		about := []string{f.Type}
		if f.Required {
			about = append(about, "required")
		}
		if f.Secret {
			about = append(about, "secret")
		}
		text := fmt.Sprintf("%s (%s)", strings.TrimSpace(f.Description), strings.Join(about, ", "))
		if len(f.Allowed) > 0 {
			text += " One of: " + strings.Join(f.Allowed, ", ") + "."
		}
		described[name] = text
	}
	return described
}

// Example returns the Vault commands that set up a connection and a role of a provider, at a mount point such as "apitoken/".
func (p *Provider) Example(mountPoint string) string {
	needed := func(fields map[string]Field, flag string) string {
		var parts []string
		for name, f := range fields {
			if f.Required {
				parts = append(parts, fmt.Sprintf(" %s=%s=...", flag, name))
			}
		}
		slices.Sort(parts)
		return strings.Join(parts, "")
	}
	return fmt.Sprintf("vault write %[1]sconnections/my-%[2]s provider=%[2]s url=https://...%[3]s%[4]s\n"+
		"vault write -force %[1]sconnections/my-%[2]s/check\n"+
		"vault write %[1]sroles/my-role connection=my-%[2]s%[5]s ttl=1h\n"+
		"vault read %[1]screds/my-role",
		mountPoint, p.Name, needed(p.Credential, "credential"), needed(p.Settings, "settings"), needed(p.Params, "params"))
}

// Describe returns the documentation and the definition of a provider, for a mount at a mount point.
func (p *Provider) Describe(mountPoint string) map[string]any {
	return map[string]any{
		"title":         p.Title,
		"description":   strings.TrimSpace(p.Description),
		"documentation": append([]string{}, p.Documentation...),
		"expiry":        string(p.Expiry),
		"operations":    p.OperationNames(),
		"credential":    DescribeFields(p.Credential),
		"settings":      DescribeFields(p.Settings),
		"params":        DescribeFields(p.Params),
		"example":       p.Example(mountPoint),
		"definition":    p.Text,
	}
}
