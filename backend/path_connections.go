package backend

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

const maxUpstreamTimeout = 5 * time.Minute

func (b *backend) pathsConnections() []*framework.Path {
	fields := map[string]*framework.FieldSchema{
		"name": {Type: framework.TypeString, Required: true, Description: "Name of the connection."},
		"provider": {
			Type:         framework.TypeString,
			Description:  "How the service is asked for tokens: one of providers. It cannot be changed.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Provider"},
		},
		"url": {
			Type:         framework.TypeString,
			Description:  "Where the service is, such as https://gitea.example.com. A change needs the secrets of the credential again.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "URL"},
		},
		"credential": {
			Type:         framework.TypeMap,
			Description:  "What the engine authenticates with, as the provider says; what is not given stays as it is. Secrets of it are never read back.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Credential", Sensitive: true},
		},
		"settings": {
			Type:         framework.TypeMap,
			Description:  "Further settings, as the provider says.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Settings"},
		},
		"name_template": {
			Type:         framework.TypeString,
			Description:  "Template of the names of tokens at the service. Default: " + defaultNameTemplate + ".",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Name template"},
		},
		"timeout": {
			Type:         framework.TypeDurationSecond,
			Description:  "How long a call may take, retries included. Default: 30s.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Timeout"},
		},
		"rate_limit": {
			Type:         framework.TypeFloat,
			Description:  "Requests a second. Default: no limit.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Rate limit"},
		},
		"max_concurrent": {
			Type:         framework.TypeInt,
			Description:  "Requests at once. Default: 16.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Maximum concurrent requests"},
		},
		"ca_cert": {
			Type:         framework.TypeString,
			Description:  "Certificates of the authorities that sign the service's certificate, in PEM. Default: the system's. A change needs the secrets of the credential again.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "CA certificate", EditType: "file"},
		},
		"client_cert": {
			Type:         framework.TypeString,
			Description:  "Certificate in PEM that the engine shows to the service.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Client certificate", EditType: "file"},
		},
		"client_key": {
			Type:         framework.TypeString,
			Description:  "Private key of client_cert, in PEM. It is never read back.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Client key", EditType: "file", Sensitive: true},
		},
		"proxy_url": {
			Type:         framework.TypeString,
			Description:  "HTTP proxy to the service. Default: that of the server's environment. A change needs the secrets of the credential again.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Proxy URL"},
		},
		"description": {
			Type:         framework.TypeString,
			Description:  "What the connection is for.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Description"},
		},
		"revoke_on_delete": {
			Type:         framework.TypeBool,
			Description:  "Revoke the credential at the service when the connection is deleted, where the provider can. If that fails, the connection is deleted all the same, with a warning. Default: false.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Revoke on delete"},
		},
		"force": {
			Type:        framework.TypeBool,
			Description: "Of a delete: delete the connection although roles or tokens use it. The answer says which tokens are left behind.",
			Query:       true,
		},
	}
	read := map[string]*framework.FieldSchema{
		"rotated_at": {Type: framework.TypeString, Required: true, Description: "When rotate-root last replaced the credential; empty: never."},
		"tokens":     {Type: framework.TypeInt, Required: true, Description: "Live tokens at the service."},
		"queue":      {Type: framework.TypeMap, Required: true, Description: "Tokens that are to be revoked yet: count, oldest (when it came to be), last_error, next_try where the service could not be reached, unrevocable (tokens that the service cannot revoke) and unrevocable_until. root: what a rotation of the credential has left to do."},
	}
	for name, field := range fields {
		switch name {
		case "name", "client_key", "force":
			continue
		}
		read[name] = &framework.FieldSchema{Type: field.Type, Required: true, Description: field.Description}
	}
	nameOnly := map[string]*framework.FieldSchema{"name": fields["name"]}
	return []*framework.Path{
		{
			Pattern:        "connections/" + framework.GenericNameRegex("name"),
			DisplayAttrs:   &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "connection"},
			Fields:         fields,
			ExistenceCheck: b.exists(func(st *state, name string) bool { return st.connections.Has(name) }),
			Operations: kept(
				&framework.PathOperation{
					Callback:  b.connectionRead,
					Summary:   "Read a connection, without its secrets.",
					Responses: ok(read),
				},
				change(b.connectionWrite, "Create or change a connection; what is not given stays as it is."),
				change(b.connectionDelete, "Delete a connection that nothing uses."),
			),
			HelpSynopsis:    "An upstream service, and the credential to mint tokens there.",
			HelpDescription: "A connection says where a service is and as whom the engine talks to it. Roles that name it issue that service's tokens. Write it, then prove it with check.",
		},
		{
			Pattern:      "connections/" + framework.GenericNameRegex("name") + "/check",
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "check", OperationSuffix: "connection"},
			Fields:       nameOnly,
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: &framework.PathOperation{
					Callback: b.connectionCheck,
					Summary:  "Prove that the credential works.",
					Responses: ok(map[string]*framework.FieldSchema{
						"provider":   {Type: framework.TypeString, Required: true, Description: "The provider."},
						"credential": {Type: framework.TypeMap, Required: true, Description: "What the service says of the credential: as whom it authenticates, what it may do."},
					}),
				},
			},
			HelpSynopsis:    "Prove that the credential works, and return what it may do.",
			HelpDescription: "Asks the service as whom the credential authenticates, and retries the queue. Nothing is changed at the service, except that the provider vault renews its token, and oauth2 gets a token.",
		},
		b.listPath("connections", func(st *state) []string { return st.connections.Names() }),
	}
}

func (b *backend) connectionRead(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	name := d.Get("name").(string)
	c := st.connections.Get(name)
	if c == nil {
		return unreadable(st.connections.Broken(name))
	}
	shown := make(map[string]any)
	if p := st.connections.provider(c.Provider); p != nil {
		for name, field := range p.Credential {
			if value, given := c.Credential[name]; given && !field.Secret {
				shown[name] = value
			}
		}
	}
	rotated := ""
	if !c.RotatedAt.IsZero() {
		rotated = c.RotatedAt.UTC().Format(time.RFC3339)
	}
	return &logical.Response{Data: map[string]any{
		"provider":         c.Provider,
		"url":              c.URL,
		"credential":       shown,
		"settings":         mapped(c.Settings),
		"name_template":    cmp.Or(c.NameTemplate, defaultNameTemplate),
		"timeout":          int64(c.client.Timeout().Seconds()),
		"rate_limit":       c.RateLimit,
		"max_concurrent":   cmp.Or(c.MaxConcurrent, connector.DefaultConcurrent),
		"ca_cert":          c.CACert,
		"client_cert":      c.ClientCert,
		"proxy_url":        c.ProxyURL,
		"description":      c.Description,
		"revoke_on_delete": c.RevokeOnDelete,
		"rotated_at":       rotated,
		"tokens":           st.upstreams.Count(c.ID, upstream.Live),
		"queue":            b.upstreams.Describe(st.connections.ready(c)),
	}}, nil
}

func (b *backend) connectionWrite(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	name := d.Get("name").(string)
	if len(name) > role.MaxNameLen {
		return nil, refusal.Field("name", "is %d bytes long, at most %d are allowed", len(name), role.MaxNameLen)
	}
	if _, given := d.GetOk("force"); given {
		return nil, refusal.Field("force", "is for deleting a connection")
	}
	if c := st.connections.Get(name); c != nil && d.Raw["credential"] != nil {
		// What a rotation makes must not meet another credential than that which it replaces.
		unlock, err := b.upstreams.LockRoot(ctx, c.ID)
		if errors.Is(err, upstream.ErrRotating) {
			return nil, refusal.Field("credential", "of connection %q is being rotated, try again", name)
		}
		if err != nil {
			return nil, err
		}
		defer unlock()
	}
	st.connections.Writing.Lock()
	defer st.connections.Writing.Unlock()
	var entry connectionEntry
	old, err := st.connections.Latest(ctx, req.Storage, name)
	if err != nil {
		return nil, err
	}
	if old != nil {
		entry = old.connectionEntry
	} else if entry.ID = st.connections.DamagedID(name); entry.ID == "" { // of a broken one, whose tokens it takes over
		if entry.ID, err = newConnectionID(); err != nil {
			return nil, err
		}
	}
	provider := cmp.Or(d.Get("provider").(string), entry.Provider)
	if _, err := st.connections.latestProvider(ctx, req.Storage, provider); err != nil {
		return nil, err
	}
	if err := entry.update(d, st.connections); err != nil {
		return nil, err
	}
	resp := new(logical.Response)
	if old != nil && !maps.Equal(old.whereabouts(), entry.whereabouts()) && entry.Unsettled() {
		entry.Leave() // which holds credentials that are not to be sent elsewhere
		resp.AddWarning(fmt.Sprintf("a rotation of the credential was not finished: a credential may be left behind at %s, revoke it there", old.URL))
	}
	c, err := newConnection(name, entry, st.connections.userAgent, st.connections.dial)
	if err != nil {
		return nil, refusal.New("%w", err)
	}
	if err := st.connections.Put(ctx, req.Storage, c); err != nil {
		return nil, err
	}
	b.upstreams.Retry(c.ID) // what could not be reached before may be reached now
	if len(resp.Warnings) == 0 {
		return nil, nil
	}
	return resp, nil
}

// update takes over the fields that are given, and refuses what is not allowed.
func (e *connectionEntry) update(d *framework.FieldData, cs *connectionStore) error {
	if v, given := d.GetOk("provider"); given {
		if e.Provider != "" && e.Provider != v.(string) {
			return refusal.Field("provider", "is %q and cannot be changed: make another connection", e.Provider)
		}
		e.Provider = v.(string)
	}
	if e.Provider == "" {
		return refusal.Field("provider", "is needed, one of: %s", strings.Join(cs.providerNames(), ", "))
	}
	p := cs.provider(e.Provider)
	if err := cs.brokenProvider(e.Provider); err != nil {
		return refusal.Field("provider", "%s", err)
	}
	if p == nil {
		return refusal.Field("provider", "there is no %q, there are: %s", refusal.Clip(e.Provider), strings.Join(cs.providerNames(), ", "))
	}
	if err := e.refuseElsewhere(d, p); err != nil {
		return err
	}
	for _, m := range []struct {
		field  string
		kept   map[string]any
		fields map[string]connector.Field
		take   func(map[string]any)
	}{
		{"credential", e.Credential, p.Credential, func(values map[string]any) { e.Replace(values, p) }},
		{"settings", e.Settings, p.Settings, func(values map[string]any) { e.Settings = values }},
	} {
		merged := maps.Clone(m.kept)
		if merged == nil {
			merged = make(map[string]any)
		}
		v, given := d.GetOk(m.field)
		if given {
			maps.Copy(merged, v.(map[string]any))
		}
		values, err := connector.Values(m.fields, merged)
		if err != nil {
			return refusal.Field(m.field, "%s", err)
		}
		if given || m.kept == nil {
			m.take(values)
		}
	}
	for field, into := range map[string]*string{
		"url": &e.URL, "name_template": &e.NameTemplate, "ca_cert": &e.CACert, "client_cert": &e.ClientCert,
		"client_key": &e.ClientKey, "proxy_url": &e.ProxyURL, "description": &e.Description,
	} {
		if v, given := d.GetOk(field); given {
			*into = v.(string)
		}
	}
	if e.URL == "" {
		return refusal.Field("url", "is needed: where the service is, such as https://gitea.example.com")
	}
	if len(e.Description) > role.MaxDescriptionLen {
		return refusal.Field("description", "is %d bytes long, at most %d are allowed", len(e.Description), role.MaxDescriptionLen)
	}
	if v, given := d.GetOk("timeout"); given {
		if e.Timeout = time.Duration(v.(int)) * time.Second; e.Timeout > maxUpstreamTimeout {
			return refusal.Field("timeout", "%s is more than %s", refusal.Short(e.Timeout), refusal.Short(maxUpstreamTimeout))
		}
	}
	if v, given := d.GetOk("rate_limit"); given {
		e.RateLimit = v.(float64)
	}
	if v, given := d.GetOk("max_concurrent"); given {
		e.MaxConcurrent = v.(int)
	}
	if v, given := d.GetOk("revoke_on_delete"); given {
		if e.RevokeOnDelete = v.(bool); e.RevokeOnDelete && p.Operations.RetireRoot == nil {
			return refusal.Field("revoke_on_delete", "provider %q cannot end its credential", e.Provider)
		}
	}
	return nil
}

// refuseElsewhere refuses to send a credential that is kept to where nobody has sent it. Whoever may change a
// connection need not know its credential, and could have it sent to a server of their own. The client_key is not
// sent to anybody, so that it need not be given again.
func (e *connectionEntry) refuseElsewhere(d *framework.FieldData, p *connector.Provider) error {
	if e.URL == "" {
		return nil // a new connection
	}
	whereabouts := e.whereabouts()
	for _, field := range slices.Sorted(maps.Keys(whereabouts)) {
		v, given := d.GetOk(field)
		if !given || v.(string) == whereabouts[field] {
			continue
		}
		again, _ := d.Get("credential").(map[string]any)
		for _, name := range slices.Sorted(maps.Keys(p.Credential)) {
			_, isKept := e.Credential[name]
			if _, isGiven := again[name]; p.Credential[name].Secret && isKept && !isGiven {
				return refusal.Field(field, "a change of it sends the credential elsewhere: give credential %q again in the same request", name)
			}
		}
	}
	return nil
}

// whereabouts are the fields that say to whom the credential is sent.
func (e *connectionEntry) whereabouts() map[string]string {
	return map[string]string{"url": e.URL, "proxy_url": e.ProxyURL, "ca_cert": e.CACert}
}

func (b *backend) connectionDelete(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	name := d.Get("name").(string)
	c := st.connections.Get(name)
	if c == nil {
		return b.dropBrokenConnection(ctx, req, st, name, d.Get("force").(bool))
	}
	force := d.Get("force").(bool)
	if err := st.used(c, req.MountPoint); err != nil && !force {
		return nil, err
	}
	unlock, err := b.upstreams.LockRoot(ctx, c.ID)
	if errors.Is(err, upstream.ErrRotating) {
		return nil, refusal.New("connection %q: %s, try again", c.name, err)
	}
	if err != nil {
		return nil, err
	}
	defer unlock()
	resp := new(logical.Response)
	if c.Unsettled() {
		if _, err := b.upstreams.Finish(ctx, st.connections.ready(c)); err != nil && !force {
			return nil, refusal.New("connection %q: a rotation of the credential is not finished: %s. Wait for it, or delete with force=true and leave a credential behind", c.name, err)
		} else if err != nil {
			resp.AddWarning(fmt.Sprintf("a rotation of the credential was not finished: a credential may be left behind at %s, revoke it there: %s", c.URL, err))
		}
		if c = st.connections.ByID(c.ID); c == nil {
			return nil, nil
		}
		if err := st.used(c, req.MountPoint); err != nil && !force { // meanwhile
			return nil, err
		}
	}
	if c.RevokeOnDelete {
		up, err := st.connections.upstream(c.name, c)
		if err == nil {
			err = up.RetireRoot(ctx)
		}
		if err != nil {
			resp.AddWarning(fmt.Sprintf("the credential was not ended at the service: %s", err))
		}
	} else if c.Made {
		resp.AddWarning(fmt.Sprintf("the credential that rotate-root made, which nobody else knows, is left behind at %s: revoke it there", c.URL))
	}
	roles := st.roleNamesOf(c)
	left, err := b.dropConnection(ctx, req.Storage, st, c)
	if err != nil {
		return nil, err
	}
	const most = 20
	var names []string
	for _, u := range left[:min(most, len(left))] {
		names = append(names, u.Name)
	}
	if len(left) > 0 {
		resp.AddWarning(fmt.Sprintf("%d tokens are left behind at %s, and nobody will end them. Their names: %s", len(left), c.URL, enumerate(names, len(left))))
	}
	if len(roles) > 0 {
		resp.AddWarning(fmt.Sprintf("roles %q have no connection any more", roles))
	}
	if len(resp.Warnings) == 0 {
		return nil, nil
	}
	return resp, nil
}

// used refuses to delete a connection that something needs; nil: nothing does.
func (st *state) used(c *connection, mountPoint string) error {
	if roles := st.roleNamesOf(c); len(roles) > 0 {
		return refusal.New("connection %q is used by roles %q: delete them first, or delete with force=true", c.name, roles)
	}
	if left := st.tokensOf(c); len(left) > 0 {
		return refusal.New("connection %q has minted %d tokens that are not ended yet: revoke their leases (vault lease revoke -prefix %screds/...) and wait for its queue, or delete with force=true and leave them behind", c.name, len(left), mountPoint)
	}
	return nil
}

// rolesOf gives the roles that issue tokens of a connection.
func (st *state) rolesOf(c *connection) []*role.Role {
	return slices.DeleteFunc(st.roles.All(), func(r *role.Role) bool { return r.Connection != c.name })
}

// roleNamesOf gives the names of the roles that issue tokens of a connection.
func (st *state) roleNamesOf(c *connection) []string {
	var names []string
	for _, r := range st.rolesOf(c) {
		names = append(names, r.Name())
	}
	return names
}

// tokensOf gives the tokens of a connection that exist, or may exist.
func (st *state) tokensOf(c *connection) []upstream.Token { return st.upstreams.OfConnection(c.ID) }

// dropConnection forgets a connection, and its tokens, which it gives.
func (b *backend) dropConnection(ctx context.Context, s logical.Storage, st *state, c *connection) ([]upstream.Token, error) {
	st.connections.Writing.Lock()
	defer st.connections.Writing.Unlock()
	now := st.connections.ByID(c.ID) // which may have been changed
	if now == nil {
		return nil, nil
	}
	if err := st.connections.drop(ctx, s, now); err != nil {
		return nil, err
	}
	// Only now: a token that was made meanwhile is known, or whoever makes it finds that the connection is gone.
	// What a crash leaves of them the next start forgets.
	tokens := st.tokensOf(c)
	for _, u := range tokens {
		if err := st.upstreams.Forget(ctx, u.ID); err != nil {
			return nil, err
		}
	}
	return tokens, nil
}

func enumerate(names []string, total int) string {
	text := strings.Join(names, ", ")
	if len(names) < total {
		text += ", ..."
	}
	return text
}

func (b *backend) connectionCheck(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	c, up, err := b.connectionOf(ctx, req, d)
	if err != nil {
		return nil, err
	}
	data, err := up.Check(ctx)
	if err != nil {
		return nil, refusal.New("connection %q: %s", c.name, err)
	}
	b.upstreams.Retry(c.ID)
	return &logical.Response{Data: map[string]any{"provider": up.Provider.Name, "credential": mapped(data)}}, nil
}

// connectionOf finds the connection that a path names, ready for calls.
func (b *backend) connectionOf(ctx context.Context, req *logical.Request, d *framework.FieldData) (*connection, *connector.Upstream, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, nil, err
	}
	name := d.Get("name").(string)
	c := st.connections.Get(name)
	if err := st.connections.Broken(name); err != nil {
		return nil, nil, refusal.New("%w", err)
	}
	if c == nil {
		return nil, nil, refusal.Field("name", "there is no connection %q", refusal.Clip(name))
	}
	up, err := st.connections.upstream(name, c)
	if err != nil {
		return nil, nil, refusal.New("%w", err)
	}
	return c, up, nil
}
