package connector

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"time"
)

// run makes the requests of the operation of a name. It returns the variables, with the last answer among them.
func (s *Service) run(ctx context.Context, name string, vars map[string]any) (map[string]any, error) {
	o := s.Provider.operations[name]
	if o == nil {
		return nil, &Error{Message: fmt.Sprintf("provider %q cannot %s", s.Provider.Name, name)}
	}
	return s.perform(ctx, o, vars)
}

// perform makes the requests of an operation. It returns the variables, with the last answer among them.
func (s *Service) perform(ctx context.Context, o *operation, vars map[string]any) (map[string]any, error) {
	ctx, cancel := context.WithTimeout(ctx, s.Client.Timeout())
	defer cancel()
	name := o.name
	once := name == opCreate || name == opRotateRoot
	vars = maps.Clone(vars)
	changed := false // a request that is not repeatable has succeeded
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

// misread returns the error of an answer that the provider's expressions cannot read.
func (s *Service) misread(err error) *Error {
	return &Error{Message: s.tell(fmt.Sprintf("the answer is not what provider %q expects: %s", s.Provider.Name, err), nil)}
}

// roundUp returns the end to request from the service: not before the end of the lease, so that the lease ends the token.
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
