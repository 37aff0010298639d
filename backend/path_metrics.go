package backend

import (
	"context"
	"net/http"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/metrics"
)

func (b *backend) pathsMetrics() []*framework.Path {
	const synopsis = "Read the metrics of this node, for Prometheus."
	return []*framework.Path{path("metrics", "read", "metrics", nil,
		only(logical.ReadOperation, b.answer(b.pathMetricsRead, synopsis,
			raw(metrics.ContentType, "Metrics in the text format of Prometheus"))),
		synopsis,
		"Returns counters of this process, and numbers of what the mount has in memory, in the text format of Prometheus (version "+
			"0.0.4). Counters begin at zero in a new process. Vault's command line shows the answer with -format=raw.")}
}

// pathMetricsRead answers for the node that was asked: the counters of another node are not those of this one.
func (b *backend) pathMetricsRead(_ context.Context, st *state, _ *request, _ *input) (*response, error) {
	text, err := b.Metrics(st, Version)
	if err != nil {
		return nil, err
	}
	return rawResponse(http.StatusOK, metrics.ContentType, private, text), nil
}
