package verify_test

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"math/big"
	"net/netip"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify/verifytest"
)

func open(b testing.TB, c verify.Config) *verify.Verifier {
	b.Helper()
	v, err := verify.New(b.Context(), c)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = v.Close() })
	return v
}

var benchUse = &verify.Use{Scopes: []string{"orders:read"}, Client: netip.MustParseAddr("10.1.2.3"), Host: "api.example.com"}

var benchToken = verifytest.Token{
	Role: "reader", Scopes: []string{"orders:*"}, Subject: "c0ffee00-1111-2222-3333-444455556666", CIDRs: []string{"10.0.0.0/8"},
	Hosts: []string{"api.example.com"},
}

// BenchmarkSeen measures a token that was seen before, with all checks.
func BenchmarkSeen(b *testing.B) {
	for _, kind := range []string{"opaque", "jwt"} {
		b.Run(kind, func(b *testing.B) {
			i := verifytest.New(b)
			v := open(b, i.Config())
			text := kinds[kind](i, b, benchToken)
			if d, err := v.Check(b.Context(), text, benchUse); err != nil || !d.Allowed {
				b.Fatal(d, err)
			}
			b.ReportAllocs()
			b.ReportMetric(float64(len(text)), "bytes/token")
			for b.Loop() {
				if d, _ := v.Check(b.Context(), text, benchUse); !d.Allowed {
					b.Fatal(d)
				}
			}
		})
	}
}

// BenchmarkNew measures a JWT that was never seen, with all checks, beside the bare verification of its signature.
func BenchmarkNew(b *testing.B) {
	i := verifytest.New(b)
	c := i.Config()
	c.MaxTokens = 200_000
	v := open(b, c)
	texts := make([]string, 20_000)
	for n := range texts {
		texts[n] = i.JWT(b, benchToken)
	}
	if d, err := v.Check(b.Context(), i.JWT(b, benchToken), benchUse); err != nil || !d.Allowed {
		b.Fatal(d, err)
	}
	key := i.PublicKey().(*ecdsa.PublicKey)
	bare := func(text string) {
		dot := strings.LastIndexByte(text, '.')
		sum := sha256.Sum256([]byte(text[:dot]))
		sig, _ := base64.RawURLEncoding.DecodeString(text[dot+1:])
		if !ecdsa.Verify(key, sum[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])) {
			b.Fatal("wrong signature")
		}
	}
	// The two take turns in runs of a hundred. The processor time of the thread counts, whatever else the machine does.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const run = 100
	var all, only time.Duration
	next := 0
	for b.Loop() {
		if next += run; next > len(texts) {
			b.Fatal("too few tokens: use -benchtime=200x")
		}
		began := threadTime(b)
		for _, text := range texts[next-run : next] {
			if d, _ := v.Check(b.Context(), text, benchUse); !d.Allowed {
				b.Fatal(d)
			}
		}
		checked := threadTime(b)
		for _, text := range texts[next-run : next] {
			bare(text)
		}
		all += checked - began
		only += threadTime(b) - checked
	}
	b.ReportMetric(float64(all)/float64(next), "ns/check")
	b.ReportMetric(float64(only)/float64(next), "ns/bare")
	b.ReportMetric(float64(all)/float64(only), "ratio")
}

// threadTime returns the processor time that the thread has taken.
func threadTime(b *testing.B) time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(1, &used); err != nil { // RUSAGE_THREAD
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// BenchmarkMemory measures the bytes that a kept token takes.
func BenchmarkMemory(b *testing.B) {
	const tokens = 1_000_000
	for b.Loop() {
		var before, after runtime.MemStats
		kept := verify.Fill(b, 0)
		runtime.GC()
		runtime.ReadMemStats(&before)
		kept.Fill(tokens)
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/tokens, "bytes/token")
		b.ReportMetric(float64(kept.Len()), "tokens")
		runtime.KeepAlive(kept)
	}
}
