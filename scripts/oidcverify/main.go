// Command oidcverify verifies a JWT as an API server would, knowing only the issuer. go-oidc discovers the keys and verifies
// the token. The token's bit in its status list says whether the token was revoked.
package main

import (
	"bytes"
	"compress/zlib"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
)

func main() {
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: oidcverify -issuer=URL -audience=API TOKEN")
		flag.PrintDefaults()
	}
	issuer := flag.String("issuer", "", "trusted issuer")
	audience := flag.String("audience", "", "required audience of the token")
	flag.Parse()
	if *issuer == "" || *audience == "" || flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := verify(ctx, *issuer, *audience, flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func verify(ctx context.Context, issuer, audience, token string) error {
	provider, err := oidc.NewProvider(ctx, issuer)
	if err != nil {
		return err
	}
	keys := provider.VerifierContext(ctx, &oidc.Config{ClientID: audience})
	verified, err := keys.Verify(ctx, token)
	if err != nil {
		return err
	}
	var claims struct {
		Scope  string `json:"scope"`
		Status struct {
			StatusList struct {
				Index uint64 `json:"idx"`
				URI   string `json:"uri"`
			} `json:"status_list"`
		} `json:"status"`
	}
	if err := verified.Claims(&claims); err != nil {
		return err
	}
	revoked := false
	if list := claims.Status.StatusList; list.URI != "" {
		bits, err := statusList(ctx, provider, list.URI)
		if err != nil {
			return err
		}
		if list.Index/8 >= uint64(len(bits)) {
			return fmt.Errorf("%s is too short for index %d", list.URI, list.Index)
		}
		revoked = bits[list.Index/8]>>(list.Index%8)&1 == 1
	}
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 4, ' ', 0)
	fmt.Fprintf(out, "signature\tgood\n")
	fmt.Fprintf(out, "sub\t%s\n", verified.Subject)
	fmt.Fprintf(out, "aud\t%s\n", strings.Join(verified.Audience, " "))
	fmt.Fprintf(out, "scope\t%s\n", claims.Scope)
	fmt.Fprintf(out, "exp\t%s\n", verified.Expiry.UTC().Format(time.RFC3339))
	fmt.Fprintf(out, "status_list\t%s, index %d\n", claims.Status.StatusList.URI, claims.Status.StatusList.Index)
	fmt.Fprintf(out, "revoked\t%t\n", revoked)
	return out.Flush()
}

// statusList fetches and verifies a status list, and returns the bits of the list, the lowest bit of a byte first
// (draft-ietf-oauth-status-list section 4.1).
func statusList(ctx context.Context, provider *oidc.Provider, uri string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/statuslist+jwt")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", uri, resp.Status)
	}
	var metadata struct {
		JWKSURI string `json:"jwks_uri"`
	}
	if err := provider.Claims(&metadata); err != nil {
		return nil, err
	}
	payload, err := oidc.NewRemoteKeySet(ctx, metadata.JWKSURI).VerifySignature(ctx, string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", uri, err)
	}
	var claims struct {
		Subject    string `json:"sub"`
		StatusList struct {
			Bits int    `json:"bits"`
			List string `json:"lst"`
		} `json:"status_list"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		return nil, err
	}
	if claims.Subject != uri || claims.StatusList.Bits != 1 {
		return nil, errors.New(uri + " is not the status list that the token names")
	}
	compressed, err := base64.RawURLEncoding.DecodeString(claims.StatusList.List)
	if err != nil {
		return nil, err
	}
	inflated, err := zlib.NewReader(bytes.NewReader(compressed))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(inflated, 1<<24))
}
