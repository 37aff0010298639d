package role

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/hashicorp/vault/sdk/helper/identitytpl"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
)

// Identities reads Vault entities, as logical.SystemView does.
type Identities interface {
	EntityInfo(id string) (*logical.Entity, error)
	GroupsForEntity(id string) ([]*logical.Group, error)
}

// HasTemplates reports whether metadata of the role holds identity templates.
func (r *Role) HasTemplates() bool { return r.hasTemplates }

// MetadataFor returns the role's metadata with the templates filled in for an entity; nil if the role has no templates.
func (r *Role) MetadataFor(entityID string, identities Identities) (map[string]string, error) {
	if !r.hasTemplates {
		return nil, nil
	}
	if entityID == "" {
		return nil, refusal.New("role %q: metadata holds identity templates, and the caller has no entity", r.name)
	}
	entity, err := identities.EntityInfo(entityID)
	if err != nil {
		return nil, err
	}
	if entity == nil {
		return nil, refusal.New("role %q: metadata holds identity templates, and the entity %q does not exist", r.name, entityID)
	}
	groups, err := identities.GroupsForEntity(entityID)
	if err != nil {
		return nil, err
	}
	filled := make(map[string]string)
	for key, template := range r.Metadata {
		if !isTemplate(template) {
			continue
		}
		_, value, err := identitytpl.PopulateString(identitytpl.PopulateStringInput{
			String: template, Entity: entity, Groups: groups, Mode: identitytpl.ACLTemplating,
		})
		if err != nil {
			return nil, refusal.New("role %q: metadata %q: %w", r.name, key, err)
		}
		filled[key] = value
	}
	return filled, nil
}

func isTemplate(s string) bool { return strings.Contains(s, "{{") }

// directive matches the text between the braces of an identity template.
var directive = regexp.MustCompile(`^identity\.(entity\.(id|name|metadata\.[^.]+|aliases\..+)|groups\.(ids|names)\..+)$`)

// checkTemplate rejects a value that is neither plain text nor a template that Vault can fill in.
func checkTemplate(s string) error {
	if _, _, err := identitytpl.PopulateString(identitytpl.PopulateStringInput{Mode: identitytpl.ACLTemplating, ValidityCheckOnly: true, String: s}); err != nil {
		return fmt.Errorf("the template cannot be read: %w", err)
	}
	for _, part := range strings.Split(s, "{{")[1:] {
		name, _, _ := strings.Cut(part, "}}")
		if name = strings.TrimSpace(name); !directive.MatchString(name) {
			return fmt.Errorf("%q is no directive of identity templates, such as {{identity.entity.name}}", refusal.Clip(name))
		}
	}
	return nil
}

func staticMetadata(all map[string]string) map[string]string {
	static := make(map[string]string, len(all))
	for key, value := range all {
		if !isTemplate(value) {
			static[key] = value
		}
	}
	return static
}
