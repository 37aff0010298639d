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

// WritersPrefix is where the entries of writers are stored. Each process writes its entry before it issues its first
// token.
const WritersPrefix = "ledger/writers/"

const (
	// ClockSkew is how far the clocks of two nodes may differ. A revocation is kept for ClockSkew longer than needed,
	// so that the token does not revive after a failover to a node with a slower clock.
	ClockSkew = 10 * time.Minute

	// quiet is how long a file must be unchanged before another writer takes the file over.
	quiet = 24 * time.Hour
)

// NewWriter returns a new writer ID. Each process has its own writer ID, and rewrites only keys that contain the ID. So a
// process that has lost leadership without noticing cannot overwrite its successor's entries.
func NewWriter() string {
	var id [8]byte
	rand.Read(id[:]) // never fails
	return hex.EncodeToString(id[:])
}

// isWriter reports whether s is a writer ID.
func isWriter(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 8 && s == strings.ToLower(s)
}

// RegisterWriter writes the entry of a writer. The write proves that this process can write to storage.
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

// PruneWriters deletes the entries of writers that registered more than longest ago. It also deletes entries that cannot
// be decoded.
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

// refusals are parts of the errors with which Vault and its storage reject writes of a node that may not write. The errors
// arrive through gRPC as text.
var refusals = []string{
	logical.ErrReadOnly.Error(),
	logical.ErrSetupReadOnly.Error(),
	logical.ErrPerfStandbyPleaseForward.Error(),
	"read-only storage", // vault/barrier_access.go
	"vault is sealed",
	"standby",
	"node is not the leader", // this and the next three: hashicorp/raft api.go
	"leadership lost while committing log",
	"leadership transfer in progress",
	"raft is already shutdown",
	"invalid session", // Consul's fencing of the active node
}

// NotLeader reports whether a write failed because this node may not write. The node's memory may then be out of date.
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

// splitKey splits the part of a key after the prefix, such as 0a1-89abcdef01234567, at its hyphen.
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
