package backend

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
)

// replicationTTL is how long an answer about the node's replication state is used. A node that changes
// it sets its mounts up anew, and storage refuses writes that it may not do.
const replicationTTL = time.Second

// systemView is Vault as the framework asks it. For every request the framework wants to know the
// replication state and whether the mount is local; each is a round trip to Vault, as dear as all the
// rest of a request here. They are remembered.
type systemView struct {
	logical.SystemView
	local       func() bool
	replication atomic.Pointer[replication]
}

type replication struct {
	state   consts.ReplicationState
	askedAt time.Time
}

func newSystemView(sys logical.SystemView) *systemView {
	return &systemView{SystemView: sys, local: sync.OnceValue(sys.LocalMount)}
}

func (s *systemView) LocalMount() bool { return s.local() }

func (s *systemView) ReplicationState() consts.ReplicationState {
	if r := s.replication.Load(); r != nil && time.Since(r.askedAt) < replicationTTL {
		return r.state
	}
	r := &replication{state: s.SystemView.ReplicationState(), askedAt: time.Now()}
	s.replication.Store(r)
	return r.state
}
