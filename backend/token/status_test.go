package token

import (
	"fmt"
	"testing"
)

// The example of draft-ietf-oauth-status-list section 4.1 with two bits for each token.
func TestStatusListOfTwoBits(t *testing.T) {
	list, err := DecodeStatusList("eNo76fITAAPfAgc")
	if err != nil || fmt.Sprintf("%x", list) != "c944f9" {
		t.Fatalf("%x, %v", list, err)
	}
	for place, want := range []byte{1, 2, 0, 3, 0, 1, 0, 1, 1, 2, 3, 3} {
		if got := StatusAt(list, 2, uint32(place)); got != want {
			t.Errorf("place %d has %d, want %d", place, got, want)
		}
	}
	if got := StatusAt(list, 2, 12); got != StatusInvalid {
		t.Errorf("a place beyond the list has %d", got)
	}
	for bits, want := range map[int]byte{1: 1, 4: 9, 8: 0xc9} {
		if got := StatusAt(list, bits, 0); got != want {
			t.Errorf("with %d bits place 0 has %d, want %d", bits, got, want)
		}
	}
}

// A list has two bits for each token only if a token is suspended. A revocation outweighs a suspension.
func TestEncodeSuspended(t *testing.T) {
	for _, tt := range []struct {
		revoked, suspended []uint32
		bits               int
		want               string
	}{
		{nil, nil, 1, "00000000000000000"},
		{[]uint32{0, 16}, nil, 1, "10000000000000001"},
		{nil, []uint32{0, 7, 16}, 2, "20000002000000002"},
		{[]uint32{1, 7, 7}, []uint32{7, 0, 0, 16}, 2, "21000001000000002"},
	} {
		lst, bits, err := EncodeStatusList(17, tt.revoked, tt.suspended)
		if err != nil || bits != tt.bits {
			t.Fatalf("%v, %v: %d bits, %v", tt.revoked, tt.suspended, bits, err)
		}
		list, err := DecodeStatusList(lst)
		if err != nil || len(list) != (17*bits+7)/8 {
			t.Fatalf("%d bytes, %v", len(list), err)
		}
		got := ""
		for place := range uint32(17) {
			got += fmt.Sprint(StatusAt(list, bits, place))
		}
		if got != tt.want {
			t.Errorf("revoked %v, suspended %v: %s, want %s", tt.revoked, tt.suspended, got, tt.want)
		}
	}
}
