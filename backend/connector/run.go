package connector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Service is a service that tokens are minted at: a provider, and how and as whom to talk to it.
type Service struct {
	Connection string // name of the connection
	Provider   *Provider
	Client     *Client
	Credential map[string]any
	Settings   map[string]any
}

// As returns the same service with another credential.
func (s *Service) As(credential map[string]any) *Service {
	other := *s
	other.Credential = credential
	return &other
}

// Token is a token at an upstream, and what is needed to end it.
type Token struct {
	Name   string            // which it was created under
	ID     string            // by which the upstream knows it
	Text   string            // the token itself; "" where revoking does not need it
	Params map[string]any    // of the role when it was created
	Record map[string]string // what the provider wants to remember of it
}

// Created is the answer to a Create.
type Created struct {
	Token
	ExpiresAt time.Time      // what the upstream says of its end; zero where it knows none
	Data      map[string]any // what the requester is told besides the token
	Granted   map[string]any // params that were granted otherwise than asked
}

// What a revocation can come to besides success.
var (
	// ErrGone says that the upstream does not have what an operation is about.
	ErrGone = errors.New("it is not there")

	// ErrCannotRevoke says that the provider has no request that would revoke the token.
	ErrCannotRevoke = errors.New("the provider cannot revoke the token with these settings")
)

// Create mints a token of this name that lives until end at most. An *Error with Unsure may have left one
// behind, to be found by name.
func (s *Service) Create(ctx context.Context, name, role string, params map[string]any, now, end time.Time) (*Created, error) {
	vars := s.vars(now, params)
	vars["name"], vars["role"] = name, role
	vars["expires_at"], vars["ttl"] = s.Provider.roundUp(end), end.Sub(now)
	answered, err := s.run(ctx, opCreate, vars)
	if err != nil {
		return nil, err
	}
	// From here on the token exists: whatever is wrong with the answer, it has to be found and ended.
	unsure := func(format string, args ...any) error {
		return &Error{Message: fmt.Sprintf(format, args...), Unsure: true}
	}
	result, err := s.result(ctx, opCreate, answered)
	if err != nil {
		return nil, unsure("the answer is not what provider %q expects: %s", s.Provider.Name, err)
	}
	c, err := readCreated(result, vars)
	if err == nil {
		err = s.withoutSecrets(result, vars)
	}
	if err == nil {
		err = ahead(c.ExpiresAt, now)
	}
	if err != nil {
		return nil, unsure("the answer is not what provider %q expects: %s", s.Provider.Name, err)
	}
	c.Name, c.Params = name, params
	return c, nil
}

// Find gives the tokens of these names, which were created with the same params. The names share one listing, unless
// the upstream is asked for a name.
func (s *Service) Find(ctx context.Context, names []string, params map[string]any) ([]Token, error) {
	if o := s.Provider.operations[opFind]; o == nil || !o.refersTo("name") {
		return s.find(ctx, opFind, "", names, params)
	}
	var found []Token
	for _, name := range names {
		one, err := s.find(ctx, opFind, name, []string{name}, params)
		if err != nil {
			return nil, err
		}
		found = append(found, one...)
	}
	return found, nil
}

// FindRoot gives the credentials of this name that RotateRoot made.
func (s *Service) FindRoot(ctx context.Context, name string) ([]Token, error) {
	return s.find(ctx, s.Provider.findRoot, name, []string{name}, nil)
}

// find lists tokens until the last page, and gives those of the names. No token of the connection is ended meanwhile.
func (s *Service) find(ctx context.Context, operation, asked string, names []string, params map[string]any) ([]Token, error) {
	const maxPages, maxFound = 1000, 1000
	release, err := s.Client.hold(ctx, wholeListing)
	if err != nil {
		return nil, err
	}
	defer release()
	wanted := make(map[string]bool, len(names))
	for _, name := range names {
		wanted[name] = true
	}
	vars := s.vars(time.Now(), params)
	vars["name"], vars["cursor"] = asked, ""
	var found []Token
	for page := int64(1); ; page++ {
		if page > maxPages {
			return nil, &Error{Message: fmt.Sprintf("there are more than %d pages of tokens", maxPages)}
		}
		vars["page"] = page
		answered, err := s.run(ctx, operation, vars)
		if errors.Is(err, ErrGone) {
			return found, nil
		}
		if err != nil {
			return nil, err
		}
		o := s.Provider.operations[operation]
		items, err := o.items.eval(ctx, answered)
		if err != nil {
			return nil, s.misread(err)
		}
		listed, err := pick(items, wanted)
		if err != nil {
			return nil, s.misread(err)
		}
		for _, one := range listed {
			one.Params = params
			found = append(found, one)
		}
		if len(found) > maxFound {
			return nil, &Error{Message: fmt.Sprintf("there are more than %d tokens of these names", maxFound)}
		}
		if o.next == nil {
			return found, nil
		}
		next, err := o.next.eval(ctx, answered)
		if err != nil {
			return nil, s.misread(err)
		}
		cursor, isText := next.(string)
		if !isText && next != nil {
			return nil, s.misread(fmt.Errorf("next is a %T and not a string", next))
		}
		if cursor == "" {
			return found, nil
		}
		vars["cursor"] = cursor
	}
}

// pick gives the tokens of a page that have one of the names. An item that it cannot read could be one of them.
func pick(items any, wanted map[string]bool) (found []Token, err error) {
	list, ok := items.([]any)
	if !ok {
		return nil, errors.New("items is not a list")
	}
	for _, item := range list {
		m, _ := item.(map[string]any)
		named, ok := m["name"]
		name, isText := named.(string)
		if !ok || !isText && named != nil {
			return nil, errors.New("an item has no name")
		}
		if !wanted[name] {
			continue
		}
		id, err := plain(m["id"])
		if err != nil || id == "" {
			return nil, errors.New("an item has no id")
		}
		found = append(found, Token{Name: name, ID: id})
	}
	return found, nil
}

// Revoke revokes a token. It returns ErrGone where the upstream does not have the token, and ErrCannotRevoke
// where the provider has no request for it.
func (s *Service) Revoke(ctx context.Context, t *Token) error { return s.revoke(ctx, opRevoke, t) }

// RevokeRoot revokes a credential that FindRoot found; its errors are those of Revoke.
func (s *Service) RevokeRoot(ctx context.Context, t *Token) error {
	return s.revoke(ctx, s.Provider.revokeRoot, t)
}

func (s *Service) revoke(ctx context.Context, operation string, t *Token) error {
	release, err := s.Client.hold(ctx, 1)
	if err != nil {
		return err
	}
	defer release()
	_, err = s.run(ctx, operation, s.tokenVars(t, time.Now()))
	return err
}

// Renew moves the end of a token, and gives what the upstream says of it; zero where it says nothing.
func (s *Service) Renew(ctx context.Context, t *Token, now, end time.Time) (time.Time, error) {
	if s.Provider.operations[opRenew] == nil {
		return time.Time{}, nil
	}
	vars := s.tokenVars(t, now)
	vars["expires_at"], vars["ttl"] = s.Provider.roundUp(end), end.Sub(now)
	answered, err := s.run(ctx, opRenew, vars)
	if errors.Is(err, ErrGone) {
		return time.Time{}, &Error{Message: "the token is not there any more"}
	}
	if err != nil {
		return time.Time{}, err
	}
	result, err := s.result(ctx, opRenew, answered)
	if err != nil {
		return time.Time{}, s.misread(err)
	}
	told, err := readEnd(result)
	if err == nil {
		err = ahead(told, now)
	}
	if err != nil {
		return time.Time{}, s.misread(err)
	}
	return told, nil
}

// Check proves that the credential works, and gives what it may do.
func (s *Service) Check(ctx context.Context) (map[string]any, error) {
	answered, err := s.run(ctx, opCheck, s.vars(time.Now(), nil))
	if errors.Is(err, ErrGone) {
		return nil, &Error{Message: "what proves that the credential works is not there: is url right?"}
	}
	if err != nil {
		return nil, err
	}
	result, err := s.result(ctx, opCheck, answered)
	if err != nil {
		return nil, s.misread(err)
	}
	if err := s.withoutSecrets(result, s.vars(time.Now(), nil)); err != nil {
		return nil, s.misread(err)
	}
	data, _ := result["data"].(map[string]any)
	return data, bounded("data", data, maxShown)
}

// RotateRoot makes another credential like the one at hand, which still works afterwards unless the upstream
// has but one. Generated is a random secret for upstreams that let the client choose.
func (s *Service) RotateRoot(ctx context.Context, name, generated string, now, end time.Time) (map[string]any, error) {
	vars := s.vars(now, nil)
	vars["name"], vars["generated"], vars["expires_at"] = name, generated, s.Provider.roundUp(end)
	answered, err := s.run(ctx, opRotateRoot, vars)
	if errors.Is(err, ErrGone) {
		return nil, &Error{Message: "what is to be rotated is not there"}
	}
	if err != nil {
		return nil, err
	}
	result, err := s.result(ctx, opRotateRoot, answered)
	if err != nil {
		return nil, &Error{Message: s.misread(err).Message, Unsure: true}
	}
	credential := maps.Clone(s.Credential)
	changed, _ := result["credential"].(map[string]any)
	maps.Copy(credential, changed)
	fresh, err := Values(s.Provider.Credential, credential)
	if err != nil {
		return nil, &Error{Message: s.misread(err).Message, Unsure: true}
	}
	if maps.EqualFunc(fresh, s.Credential, func(a, b any) bool { return a == b }) {
		return nil, &Error{Message: "the service gave the credential that is in use", Unsure: true}
	}
	if err := s.withoutSecrets(s.Provider.shown(changed), vars); err != nil {
		return nil, &Error{Message: s.misread(err).Message, Unsure: true}
	}
	return fresh, nil
}

// RetireRoot ends the credential at hand, where the upstream can.
func (s *Service) RetireRoot(ctx context.Context) error {
	if s.Provider.operations[opRetireRoot] == nil {
		return nil
	}
	_, err := s.run(ctx, opRetireRoot, s.vars(time.Now(), nil))
	if errors.Is(err, ErrGone) {
		return nil
	}
	return err
}

// vars are what every expression may refer to.
func (s *Service) vars(now time.Time, params map[string]any) map[string]any {
	vars := map[string]any{"now": now, "connection": s.Connection}
	for part, of := range map[string]struct {
		fields map[string]Field
		values map[string]any
	}{
		"credential": {s.Provider.Credential, s.Credential},
		"settings":   {s.Provider.Settings, s.Settings},
		"params":     {s.Provider.Params, params},
	} {
		for name, field := range of.fields {
			value := field.zero()
			if given, ok := of.values[name]; ok {
				// What was stored as JSON comes back as other types.
				if converted, err := field.convert(given); err == nil {
					value = converted
				}
			}
			vars[part+"."+name] = value
		}
	}
	return vars
}

func (s *Service) tokenVars(t *Token, now time.Time) map[string]any {
	vars := s.vars(now, t.Params)
	record := t.Record
	if record == nil {
		record = map[string]string{}
	}
	vars["name"], vars["id"], vars["token"], vars["record"] = t.Name, t.ID, t.Text, record
	return vars
}

// run makes the requests of an operation, and gives the variables with the last answer among them.
func (s *Service) run(ctx context.Context, name string, vars map[string]any) (map[string]any, error) {
	ctx, cancel := context.WithTimeout(ctx, s.Client.Timeout())
	defer cancel()
	o := s.Provider.operations[name]
	if o == nil {
		return nil, &Error{Message: fmt.Sprintf("provider %q cannot %s", s.Provider.Name, name)}
	}
	once := name == opCreate || name == opRotateRoot
	vars = maps.Clone(vars)
	changed := false // a request that is not repeatable has been done
	answered := false
	for _, r := range o.requests {
		if r.when != nil {
			wanted, err := r.when.eval(ctx, vars)
			if err != nil {
				return nil, &Error{Message: s.tell(s.misread(err).Message, vars), Unsure: changed}
			}
			if wanted != true {
				continue
			}
		}
		out, err := r.outgoing(ctx, vars)
		if err != nil {
			return nil, &Error{Message: s.tell(err.Error(), vars), Unsure: changed}
		}
		repeatable := !once || r.method == http.MethodGet
		out.policy = retryPolicy{repeatable: repeatable, statuses: r.retry}
		a, err := s.Client.send(ctx, out)
		if err == nil {
			err = r.classify(a)
		}
		if e := (*Error)(nil); errors.As(err, &e) {
			e.Message = s.tell(e.Message, vars, out.secrets...)
			e.Unsure = e.Unsure && !repeatable || changed
		}
		if err != nil {
			return nil, err
		}
		changed = changed || !repeatable
		answered = true
		vars["response.status"], vars["response.headers"], vars["response.body"] = int64(a.status), a.headers, a.body
		for name, p := range r.save {
			if vars["saved."+name], err = p.eval(ctx, vars); err != nil {
				return nil, &Error{Message: s.tell(s.misread(err).Message, vars), Unsure: changed}
			}
		}
	}
	switch {
	case answered, name == opRetireRoot:
	case name == opRevoke || name == opRevokeRoot:
		return nil, ErrCannotRevoke
	default:
		return nil, &Error{Message: fmt.Sprintf("provider %q has no request for this", s.Provider.Name)}
	}
	return vars, nil
}

// outgoing fills a request in.
func (r *request) outgoing(ctx context.Context, vars map[string]any) (*outgoing, error) {
	out := &outgoing{method: r.method, query: make(url.Values), headers: make(map[string]string)}
	var err error
	if out.path, err = writePath(ctx, r.path, vars); err != nil {
		return nil, fmt.Errorf("path: %w", err)
	}
	if err := fill(ctx, out.query, r.query, vars); err != nil {
		return nil, fmt.Errorf("query: %w", err)
	}
	for _, name := range sortedKeys(r.headers) {
		value, err := r.headers[name].eval(ctx, vars)
		if err != nil {
			return nil, fmt.Errorf("headers.%s: %w", name, err)
		}
		text, _ := value.(string)
		if strings.ContainsAny(text, "\r\n\x00") {
			return nil, fmt.Errorf("headers.%s: has a line break in it", name)
		}
		if text == "" {
			continue
		}
		out.headers[name] = text
		if words := strings.Fields(text); r.headers[name].secret && len(words) > 0 {
			out.secrets = append(out.secrets, text, words[len(words)-1])
		}
	}
	switch {
	case r.json != nil:
		value, err := r.json.eval(ctx, vars)
		if err != nil {
			return nil, fmt.Errorf("json: %w", err)
		}
		if out.body, err = json.Marshal(value); err != nil {
			return nil, fmt.Errorf("json: %w", err)
		}
		out.mediaType = "application/json"
	case len(r.form) > 0:
		form := make(url.Values)
		if err := fill(ctx, form, r.form, vars); err != nil {
			return nil, fmt.Errorf("form: %w", err)
		}
		out.body, out.mediaType = []byte(form.Encode()), "application/x-www-form-urlencoded"
	}
	return out, nil
}

// fill evaluates the values of a query or a form. Null leaves a value out, a list repeats it.
func fill(ctx context.Context, into url.Values, programs map[string]*program, vars map[string]any) error {
	for _, name := range sortedKeys(programs) {
		value, err := programs[name].eval(ctx, vars)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if value == nil {
			continue
		}
		list, ok := value.([]any)
		if !ok {
			list = []any{value}
		}
		for _, one := range list {
			text, err := plain(one)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			into.Add(name, text)
		}
	}
	return nil
}

// classify tells what a status means.
func (r *request) classify(a *answer) error {
	good := a.status >= 200 && a.status < 300
	if len(r.ok) > 0 {
		good = slices.Contains(r.ok, a.status)
	}
	denied := a.status == http.StatusUnauthorized || a.status == http.StatusForbidden
	if len(r.denied) > 0 {
		denied = slices.Contains(r.denied, a.status)
	}
	switch {
	case good:
		return nil
	case slices.Contains(r.gone, a.status):
		return ErrGone
	case a.status >= 300 && a.status < 400:
		return &Error{Status: a.status, Message: "redirects are not followed, set url to where the API is", Unsure: true}
	}
	e := &Error{Status: a.status, Message: messageOf(a.body), Denied: denied, RetryAfter: a.after}
	// A server that failed may have done its work before, and one that says it did, it did.
	refused := a.status >= 400 && a.status < 500 && a.status != http.StatusRequestTimeout
	e.Unsure = !refused && !(a.status == http.StatusServiceUnavailable && a.after > 0)
	return e
}

// messageOf finds what the upstream says of an error, in the places where APIs say it. Secrets may be in it.
func messageOf(body any) string {
	switch v := body.(type) {
	case string:
		if strings.HasPrefix(strings.TrimSpace(v), "<") {
			return "" // a page for people
		}
		return v
	case []any:
		var all []string
		for _, one := range v {
			if text := messageOf(one); text != "" {
				all = append(all, text)
			}
		}
		return strings.Join(all, "; ")
	case map[string]any:
		for _, key := range []string{"error_description", "message", "errors", "error", "detail", "title", "reason"} {
			if text := messageOf(v[key]); text != "" {
				return text
			}
		}
		var all []string // such as {"name": ["is taken"]}
		for _, key := range sortedKeys(v) {
			if list, ok := v[key].([]any); ok {
				all = append(all, key+": "+messageOf(list))
			}
		}
		return strings.Join(all, "; ")
	}
	return ""
}

// result evaluates the result of an operation.
func (s *Service) result(ctx context.Context, name string, vars map[string]any) (map[string]any, error) {
	result := make(map[string]any)
	programs := s.Provider.operations[name].result
	for _, member := range sortedKeys(programs) {
		value, err := programs[member].eval(ctx, vars)
		if err != nil {
			return nil, fmt.Errorf("%s: %s", member, s.tell(err.Error(), vars))
		}
		result[member] = value
	}
	return result, nil
}

// misread says that an answer was not what the provider expects.
func (s *Service) misread(err error) *Error {
	return &Error{Message: s.tell(fmt.Sprintf("the answer is not what provider %q expects: %s", s.Provider.Name, err), nil)}
}

// roundUp gives the end that an upstream is told: later than the lease's, so that the lease is what ends it.
func (p *Provider) roundUp(end time.Time) time.Time {
	const slack = 30 * time.Second
	end = end.UTC().Add(slack)
	if p.Expiry != ExpiryDays {
		return end.Truncate(time.Second)
	}
	day := end.Truncate(24 * time.Hour)
	if day.Before(end) {
		day = day.Add(24 * time.Hour)
	}
	return day
}
