package ledger

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// WritersPrefix is where each process registers before it issues its first token.
const WritersPrefix = "ledger/writers/"

const (
	// ClockSkew is how far the clocks of two nodes may be apart: a revocation is kept so much longer than it is
	// needed, so that it does not revive after a failover to a slower clock.
	ClockSkew = 10 * time.Minute

	// quiet is how long a key must not have been written before another writer takes it over.
	quiet = 24 * time.Hour

	// loaders is how many keys are read from storage at once when a part of the ledger is loaded.
	loaders = 16
)

// NewWriter returns a new writer id. Each process has one; a key that contains it is rewritten by that process
// only. So a process that lost its leadership unnoticed cannot erase what its successor wrote.
func NewWriter() string {
	var id [8]byte
	rand.Read(id[:]) // never fails
	return hex.EncodeToString(id[:])
}

// isWriter reports whether s is a writer id.
func isWriter(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 8 && s == strings.ToLower(s)
}

// RegisterWriter writes the entry of a writer, which proves that storage can be written.
func RegisterWriter(ctx context.Context, s logical.Storage, writer string, now time.Time) error {
	entry, err := logical.StorageEntryJSON(WritersPrefix+writer, registration{At: now.UTC()})
	if err != nil {
		return err
	}
	return s.Put(ctx, entry)
}

type registration struct {
	At time.Time `json:"at"`
}

// PruneWriters drops the entries of writers that registered longer ago than any token lives. Entries that
// cannot be decoded are dropped, too.
func PruneWriters(ctx context.Context, s logical.Storage, writer string, longest time.Duration, now time.Time) error {
	names, err := s.List(ctx, WritersPrefix)
	if err != nil {
		return err
	}
	for _, name := range names {
		if name == writer {
			continue
		}
		entry, err := s.Get(ctx, WritersPrefix+name)
		if err != nil {
			return err
		}
		var r registration
		if entry != nil && entry.DecodeJSON(&r) == nil && now.Before(r.At.Add(longest)) {
			continue
		}
		if err := s.Delete(ctx, WritersPrefix+name); err != nil {
			return err
		}
	}
	return nil
}

// refusals are parts of the errors with which Vault and its storage refuse the writes of a node that may not
// write. The errors arrive through gRPC as text.
var refusals = []string{
	logical.ErrReadOnly.Error(),
	logical.ErrSetupReadOnly.Error(),
	logical.ErrPerfStandbyPleaseForward.Error(),
	"read-only storage", // vault/barrier_access.go
	"vault is sealed",
	"standby",
	"node is not the leader", // hashicorp/raft api.go, and the next three
	"leadership lost while committing log",
	"leadership transfer in progress",
	"raft is already shutdown",
	"invalid session", // Consul's fencing of the active node
}

// NotLeader reports whether a write failed because this node may not write (any more). What the node has in
// memory may then be out of date.
func NotLeader(err error) bool {
	if err == nil {
		return false
	}
	text := strings.ToLower(err.Error())
	for _, refusal := range refusals {
		if strings.Contains(text, refusal) {
			return true
		}
	}
	return errors.Is(err, logical.ErrReadOnly)
}

// splitKey splits the last part of a key, such as 0a1-89abcdef01234567 or 89abcdef01234567-3, at its hyphen.
func splitKey(key, prefix string) (before, after string, err error) {
	name, ok := strings.CutPrefix(key, prefix)
	if ok {
		before, after, ok = strings.Cut(name, "-")
	}
	if !ok || before == "" || after == "" {
		return "", "", fmt.Errorf("%q is not a key of %s", key, prefix)
	}
	return before, after, nil
}
