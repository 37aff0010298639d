package verify

import (
	"context"
	"errors"
	"net/http"
)

type impl struct{}

var errTodo = errors.New("not built yet")

func open(context.Context, Config) (*Verifier, error) { return nil, errTodo }

func (*impl) check(context.Context, string, *Use) (Decision, error) { return Decision{}, errTodo }

func (*impl) middleware([]Option) func(http.Handler) http.Handler { panic(errTodo) }

func (*impl) state() State { return State{} }

func (*impl) close() error { return nil }

type decisionKey struct{}

// From returns the Decision about the request that Middleware allowed; ok is false in a context without a Decision.
func From(ctx context.Context) (d Decision, ok bool) {
	d, ok = ctx.Value(decisionKey{}).(Decision)
	return d, ok
}
