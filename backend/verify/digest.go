package verify

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"sync"
	"unsafe"
)

// digest stands for the text of a token in memory. A digest is a MAC with a random key of the process: nobody outside can
// find two texts with one digest, and a million tokens need not be in memory (see recent for a few of them).
type digest [16]byte

// digester makes digests with GMAC (NIST SP 800-38D), which takes half the time of SHA-256. GMAC with one nonce for all
// texts is a universal hash as long as nobody sees a digest (collisions have a probability below 2^-120 for a text of
// token.MaxLen): digests never leave the process.
type digester struct {
	aead cipher.AEAD
	pool sync.Pool // of *digest, so that a digest takes no allocation
}

func newDigester() *digester {
	key := make([]byte, 16)
	_, _ = rand.Read(key) // never fails
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return &digester{aead: aead, pool: sync.Pool{New: func() any { return new(digest) }}}
}

var noNonce [12]byte

// sum returns the digest of a text of at most token.MaxLen bytes.
func (d *digester) sum(text string) (sum digest) {
	out := d.pool.Get().(*digest)
	data := unsafe.Slice(unsafe.StringData(text), len(text)) //nolint:gosec // read only, and without a copy
	d.aead.Seal(out[:0], noNonce[:], nil, data)              //nolint:gosec // a MAC that nobody sees, see digester
	sum = *out
	d.pool.Put(out)
	return sum
}
