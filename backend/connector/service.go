package connector

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Service is an upstream service: a provider with a client, settings and a credential.
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

// Token is a token at a service, with the data needed to revoke the token.
type Token struct {
	Name   string            // at the service
	ID     string            // at the service
	Text   string            // the secret; empty if revoking does not need it
	Params map[string]any    // of the role when the token was created
	Record map[string]string // values that the provider needs again
}

// Created is the answer to a Create.
type Created struct {
	Token
	ExpiresAt time.Time      // expiry at the service; zero if there is none
	Data      map[string]any // further data for the requester
	Granted   map[string]any // params that were granted with another value than requested
}

// The errors of a revocation that are not failures of the service.
var (
	// ErrGone is returned if the object of an operation does not exist at the service.
	ErrGone = errors.New("it does not exist at the service")

	// ErrCannotRevoke is returned if the provider has no request to revoke the token.
	ErrCannotRevoke = errors.New("the provider cannot revoke the token with these settings")
)

// Create mints a token with a name that must live until end. If Create returns an *Error with Unsure, the token may exist,
// and Find finds it by name.
func (s *Service) Create(ctx context.Context, name, role string, params map[string]any, now, end time.Time) (*Created, error) {
	vars := s.vars(now, params)
	vars["name"], vars["role"] = name, role
	vars["expires_at"], vars["ttl"] = s.Provider.roundUp(end), end.Sub(now)
	answered, err := s.run(ctx, opCreate, vars)
	if err != nil {
		return nil, err
	}
	// From here on the token exists. If the answer is wrong, the caller must find and revoke the token.
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

// Revoke revokes a token. It returns ErrGone if the token does not exist at the service, and ErrCannotRevoke if the
// provider has no request to revoke the token.
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

// Renew moves the end of a token. It returns the new end at the service, or the zero time if the service reports none.
func (s *Service) Renew(ctx context.Context, t *Token, now, end time.Time) (time.Time, error) {
	if s.Provider.operations[opRenew] == nil {
		return time.Time{}, nil
	}
	vars := s.tokenVars(t, now)
	vars["expires_at"], vars["ttl"] = s.Provider.roundUp(end), end.Sub(now)
	answered, err := s.run(ctx, opRenew, vars)
	if errors.Is(err, ErrGone) {
		return time.Time{}, &Error{Message: "the token no longer exists at the service"}
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

// Check verifies that the credential works. It returns what the service reports about the credential.
func (s *Service) Check(ctx context.Context) (map[string]any, error) {
	answered, err := s.run(ctx, opCheck, s.vars(s.Client.cfg.Now(), nil))
	if errors.Is(err, ErrGone) {
		return nil, &Error{Message: "the resource of the check does not exist: is url right?"}
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

// vars returns the variables that every expression may refer to.
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
				// Values that were stored as JSON have other types.
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
