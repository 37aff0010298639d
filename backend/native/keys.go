package native

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// DestroyKey destroys a key of either kind, and with the key all tokens made with the key. known is false if there is no
// such key. If the key signs JWTs, unknownUntil is until when API servers may not know the key that signs from now on.
func (t *Tokens) DestroyKey(ctx context.Context, s logical.Storage, name string) (unknownUntil time.Time, known bool, err error) {
	switch {
	case t.Sealing.Keys().Find(name) != nil:
		err = t.Sealing.Destroy(ctx, s, name)
	case t.Signing.Keys().Find(name) != nil:
		unknownUntil, err = t.Signing.Destroy(ctx, s, name, t.Config.OrDefaults().SigningPolicy())
	default:
		return time.Time{}, false, nil
	}
	return unknownUntil, true, err
}
