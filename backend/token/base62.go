package token

import (
	"encoding/binary"
	"math"
)

// The text form of an opaque token's body. Each block of eight bytes is one big-endian number, written in as few base62
// digits as any block of its size needs. The last block may be shorter. Each length of input has its own length of
// output, and the decoder rejects digits that no block has. So each value has exactly one spelling.

const (
	base62Digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	blockBytes   = 8
	blockDigits  = 11 // digitsFor[blockBytes]
)

// digitsFor is the number of base62 digits by the number of bytes in a block.
var digitsFor = [blockBytes + 1]int{0, 2, 3, 5, 6, 7, 9, 10, blockDigits}

// bytesFor is the number of bytes by the number of digits. It is 0 for a number of digits that no block has.
var bytesFor = func() (b [blockDigits + 1]int) {
	for n, d := range digitsFor {
		b[d] = n
	}
	return b
}()

// valueOf is the value of a digit. It is -1 for a byte that is not a digit.
var valueOf = func() (v [256]int8) {
	for i := range v {
		v[i] = -1
	}
	for i, c := range []byte(base62Digits) {
		v[c] = int8(i)
	}
	return v
}()

// appendBase62 appends the text form of src to dst.
func appendBase62(dst, src []byte) []byte {
	for len(src) > 0 {
		n := min(len(src), blockBytes)
		var value uint64
		for _, b := range src[:n] {
			value = value<<8 | uint64(b)
		}
		dst = appendDigits(dst, value, digitsFor[n])
		src = src[n:]
	}
	return dst
}

// appendDigits appends value as exactly n base62 digits.
func appendDigits(dst []byte, value uint64, n int) []byte {
	start := len(dst)
	for range n {
		dst = append(dst, '0')
	}
	for i := len(dst) - 1; i >= start; i-- {
		dst[i] = base62Digits[value%62]
		value /= 62
	}
	return dst
}

// appendBase62Decoded appends the decoded bytes of src to dst. ok is false if src is not a text form.
func appendBase62Decoded(dst []byte, src string) (_ []byte, ok bool) {
	for len(src) > 0 {
		digits := min(len(src), blockDigits)
		n := bytesFor[digits]
		if n == 0 {
			return nil, false
		}
		value, ok := parseDigits(src[:digits])
		if !ok || value>>(8*n) != 0 { // for eight bytes the shift leaves 0
			return nil, false
		}
		var block [blockBytes]byte
		binary.BigEndian.PutUint64(block[:], value)
		dst = append(dst, block[blockBytes-n:]...)
		src = src[digits:]
	}
	return dst, true
}

// parseDigits returns the value of base62 digits. ok is false if a byte is not a digit or if the value exceeds 64 bits.
func parseDigits(s string) (value uint64, ok bool) {
	for i := range len(s) {
		digit := valueOf[s[i]]
		if digit < 0 {
			return 0, false
		}
		if value > (math.MaxUint64-uint64(digit))/62 {
			return 0, false
		}
		value = value*62 + uint64(digit)
	}
	return value, true
}
