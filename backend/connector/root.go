package connector

import (
	"context"
	"errors"
	"maps"
	"time"
)

// FindRoot returns the credentials of a name that RotateRoot made.
func (s *Service) FindRoot(ctx context.Context, name string) ([]Token, error) {
	return s.find(ctx, s.Provider.findRoot, name, []string{name}, nil)
}

// RevokeRoot revokes a credential that FindRoot found. Its errors are the errors of Revoke.
func (s *Service) RevokeRoot(ctx context.Context, t *Token) error {
	return s.revoke(ctx, s.Provider.revokeRoot, t)
}

// RotateRoot makes another credential with the same rights. The current credential still works afterwards, unless the
// service has only one. Generated is a random secret for services that let the client choose the secret.
func (s *Service) RotateRoot(ctx context.Context, name, generated string, now, end time.Time) (map[string]any, error) {
	vars := s.vars(now, nil)
	vars["name"], vars["generated"], vars["expires_at"] = name, generated, s.Provider.roundUp(end)
	answered, err := s.run(ctx, opRotateRoot, vars)
	if errors.Is(err, ErrGone) {
		return nil, &Error{Message: "the credential to rotate does not exist at the service"}
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
		return nil, &Error{Message: "the service returned the credential that is in use", Unsure: true}
	}
	if err := s.withoutSecrets(s.Provider.shown(changed), vars); err != nil {
		return nil, &Error{Message: s.misread(err).Message, Unsure: true}
	}
	return fresh, nil
}

// RetireRoot revokes the current credential. It does nothing if the provider cannot revoke credentials.
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
