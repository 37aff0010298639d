package backend

import (
	"context"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/values"
)

// HandleRequest handles a request, and renders a refusal: into an OAuth error below oauth/, into a Vault error elsewhere.
func (b *backend) HandleRequest(ctx context.Context, req *request) (*response, error) {
	resp, err := b.handle(ctx, req)
	r := refusal.As(err)
	switch {
	case r == nil:
		return resp, err
	case r.HTTP != 0:
		return nil, logical.CodedError(r.HTTP, err.Error())
	case speaksOAuth(req):
		return refused(http.StatusBadRequest, r.OAuthBody()), nil
	}
	return logical.ErrorResponse("%s", err), nil
}

// speaksOAuth reports whether a request is one of OAuth, with a form and an answer of OAuth.
func speaksOAuth(req *request) bool {
	return req.Operation == logical.UpdateOperation && strings.HasPrefix(req.Path, oauthPrefix)
}

func (b *backend) handle(ctx context.Context, req *request) (*response, error) {
	if speaksOAuth(req) {
		if err := oauthForm(req); err != nil {
			return nil, err
		}
	}
	for _, field := range mapFields {
		if value, given := req.Data[field]; given {
			req.Data[field] = values.Object(value)
		}
	}
	if storage := req.Storage; storage != nil {
		req.Storage = b.Fence.Request(storage)
		defer func() { req.Storage = storage }()
	}
	resp, err := b.Backend.HandleRequest(ctx, req)
	if err == nil && resp.IsError() && strings.HasPrefix(resp.Error().Error(), "Field validation failed") {
		// The framework's message shows the value. The value may be a token, and the audit log holds errors in plain text.
		if err := b.checkTypes(req); err != nil {
			return nil, err
		}
	}
	return resp, err
}

// HandleExistenceCheck reports whether the path exists: Vault distinguishes create and update by the answer.
// HandleExistenceCheck reads only the name in the path. HandleRequest checks the fields, with errors that say what is allowed.
func (b *backend) HandleExistenceCheck(ctx context.Context, req *request) (checkFound, exists bool, err error) {
	named := *req
	named.Data = nil
	return b.Backend.HandleExistenceCheck(ctx, &named)
}

// mapFields are the fields whose values are maps. The command line writes such a field as field=name=value.
var mapFields = []string{"params", "credential", "settings"}
