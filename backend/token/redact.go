package token

import (
	"errors"
	"strings"
)

// NoneIn returns an error if a text contains a token: for texts that listings show.
func NoneIn(text string) error {
	if Redact(text) != text {
		return errors.New("contains a token, which a listing would show: name the token by its token_id")
	}
	return nil
}

// Redact replaces the tokens in a text, opaque ones and JWTs, by "[token]": for logs of what clients send.
func Redact(text string) string {
	if len(text) < minTokenLen {
		return text
	}
	var b strings.Builder
	kept := 0 // bytes of text that are in b
	for begin := 0; begin < len(text); {
		if text[begin] == '%' && begin+2 < len(text) { // a percent-encoded byte
			begin += 3
			continue
		}
		end := tokenEnd(text, begin)
		if end-begin >= minTokenLen && isToken(text[begin:end]) {
			b.WriteString(text[kept:begin])
			b.WriteString("[token]")
			kept = end
		}
		begin = max(end, begin+1)
	}
	if kept == 0 {
		return text
	}
	b.WriteString(text[kept:])
	return b.String()
}

// minTokenLen is less than the length of any token.
const minTokenLen = 32

// tokenEnd returns where a token ends that begins at a place: an opaque token before a dot, and a JWT with its two dots.
func tokenEnd(text string, begin int) int {
	dots := 0
	if strings.HasPrefix(text[begin:], jwtBegin) {
		dots = 2
	}
	for end := begin; ; end++ {
		switch {
		case end == len(text):
			return end
		case text[end] == '.' && dots > 0:
			dots--
		case !inToken(text[end]):
			return end
		}
	}
}

const jwtBegin = "eyJ" // {" in base64url

func isToken(s string) bool {
	return Checksum(s) || IsJWT(s) && strings.HasPrefix(s, jwtBegin)
}

func inToken(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
}
