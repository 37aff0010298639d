package connector

import (
	"context"
	"errors"
	"fmt"
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

// Revoke revokes a token. It returns ErrGone where the upstream does not have the token, and ErrCannotRevoke
// where the provider has no request for it.
func (s *Service) Revoke(ctx context.Context, t *Token) error { return s.revoke(ctx, opRevoke, t) }

func (s *Service) revoke(ctx context.Context, operation string, t *Token) error {
	release, err := s.Client.hold(ctx, 1)
	if err != nil {
		return err
	}
	defer release()
	_, err = s.run(ctx, operation, s.tokenVars(t, s.Client.cfg.Now()))
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
	answered, err := s.run(ctx, opCheck, s.vars(s.Client.cfg.Now(), nil))
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
	if err := s.withoutSecrets(result, s.vars(s.Client.cfg.Now(), nil)); err != nil {
		return nil, s.misread(err)
	}
	data, _ := result["data"].(map[string]any)
	return data, bounded("data", data, maxShown)
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
