package backend

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// A connection that a role has come to use while its deletion completed a rotation is not deleted.
func TestAConnectionThatIsUsedMeanwhileIsNotDeleted(t *testing.T) {
	s := newShelf(t)
	e := onShelfPrepared(t, s, func(b *backend) {
		hurry(b)
		b.Upstreams.Timings.FirstBackoff, b.Upstreams.Timings.LongestBackoff = time.Hour, time.Hour
	})
	_, _ = e.ask(e.storage, logical.DeleteOperation, "roles/reader", nil)
	var deleting, used atomic.Bool
	s.setFault(func(w http.ResponseWriter, r *http.Request, done func()) bool {
		switch {
		case r.Method == http.MethodPut:
			return resetAfter(w, r, done)
		case r.URL.Path == "/self" && !deleting.Load():
			return reset(w, r, done) // so that it is not settled before
		case r.URL.Path == "/self" && used.CompareAndSwap(false, true):
			_, _ = e.ask(e.storage, logical.UpdateOperation, "roles/reader", data{"connection": "shelf", "params": data{"books": "a"}})
		}
		return false
	})
	_, _ = e.ask(e.storage, logical.UpdateOperation, "rotate-root/shelf", nil)
	if !eventually(func() bool {
		root, _ := e.read("connections/shelf")["queue"].(map[string]any)["root"].(string)
		return strings.Contains(root, ": ") // the queue tried, failed, and waits
	}) {
		t.Fatal("the rotation is not known to be cut short")
	}
	deleting.Store(true)
	resp, err := e.ask(e.storage, logical.DeleteOperation, "connections/shelf", nil)
	if err != nil || !resp.IsError() || !strings.Contains(resp.Error().Error(), "used by roles") {
		t.Errorf("the connection was deleted: %v %v", resp, err)
	}
	if e.read("connections/shelf") == nil || !used.Load() {
		t.Error("there is no connection, or nobody has asked the service")
	}
}
