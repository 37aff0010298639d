package mount

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
)

// replicationTTL is how long a node's replication state is cached. A stale value does no harm: Vault sets up all mounts
// again when the state changes, and storage rejects writes that the node may not make.
const replicationTTL = time.Second

// SystemView caches two answers of Vault. The framework asks Vault for the replication state, and whether the mount is
// local, on every request. Each question is a round trip that costs as much as the rest of a request.
type SystemView struct {
	logical.SystemView
	local       func() bool
	replication atomic.Pointer[replication]
}

type replication struct {
	state   consts.ReplicationState
	askedAt time.Time
}

// NewSystemView returns a view that caches answers of sys.
func NewSystemView(sys logical.SystemView) *SystemView {
	return &SystemView{SystemView: sys, local: sync.OnceValue(sys.LocalMount)}
}

// LocalMount implements logical.SystemView.
func (s *SystemView) LocalMount() bool { return s.local() }

// ReplicationState implements logical.SystemView.
func (s *SystemView) ReplicationState() consts.ReplicationState {
	if r := s.replication.Load(); r != nil && time.Since(r.askedAt) < replicationTTL {
		return r.state
	}
	r := &replication{state: s.SystemView.ReplicationState(), askedAt: time.Now()}
	s.replication.Store(r)
	return r.state
}

// onceView asks Vault once for the mount's maximum lease TTL.
type onceView struct {
	logical.SystemView
	max func() time.Duration
}

// AskOnce returns a view for one request, which asks Vault at most once for the mount's maximum lease TTL.
func AskOnce(sys logical.SystemView) logical.SystemView {
	return &onceView{SystemView: sys, max: sync.OnceValue(sys.MaxLeaseTTL)}
}

// MaxLeaseTTL implements logical.SystemView.
func (v *onceView) MaxLeaseTTL() time.Duration { return v.max() }
