package connector

import (
	"context"
	"errors"
	"maps"
	"time"
)

// FindRoot gives the credentials of this name that RotateRoot made.
func (s *Service) FindRoot(ctx context.Context, name string) ([]Token, error) {
	return s.find(ctx, s.Provider.findRoot, name, []string{name}, nil)
}

// RevokeRoot revokes a credential that FindRoot found; its errors are those of Revoke.
func (s *Service) RevokeRoot(ctx context.Context, t *Token) error {
	return s.revoke(ctx, s.Provider.revokeRoot, t)
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
	_, err := s.run(ctx, opRetireRoot, s.vars(s.Client.cfg.Now(), nil))
	if errors.Is(err, ErrGone) {
		return nil
	}
	return err
}
