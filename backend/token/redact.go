package token

import (
	"errors"
	"hash/crc32"
	"strings"
)

// NoneIn returns an error if a text contains a token: for texts that listings show.
func NoneIn(text string) error {
	if Redact(text) != text {
		return errors.New("contains a token, which a listing would show: name the token by its token_id")
	}
	return nil
}

// Redact replaces the tokens in a text, opaque ones and JWTs, by "[token]": for logs of what clients send. Redact also finds
// a token to which other characters of tokens are glued.
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
		end := runEnd(text, begin)
		from, to, found := tokenIn(text, begin, end)
		if !found {
			begin = max(end, begin+1)
			continue
		}
		b.WriteString(text[kept:from])
		b.WriteString("[token]")
		begin, kept = to, to
	}
	if kept == 0 {
		return text
	}
	b.WriteString(text[kept:])
	return b.String()
}

const (
	// minTokenLen is less than the length of any token.
	minTokenLen = 32

	// maxPrefixLen is the largest length of a prefix.
	maxPrefixLen = 16

	jwtBegin = "eyJ" // {" in base64url
)

// runEnd returns where the characters of tokens end that begin at a place.
func runEnd(text string, begin int) int {
	for begin < len(text) && inToken(text[begin]) {
		begin++
	}
	return begin
}

// tokenIn returns where the first token is that begins in a run of characters of tokens. A JWT goes on behind the run.
func tokenIn(text string, begin, end int) (from, to int, found bool) {
	if end-begin >= minTokenLen && Checksum(text[begin:end]) {
		return begin, end, true
	}
	if from, to, found = opaqueIn(text[begin:end]); found {
		from, to = begin+from, begin+to
	}
	if jwt := strings.Index(text[begin:end], jwtBegin); jwt >= 0 && (!found || begin+jwt < from) {
		if last := jwtEnd(text, end); last-begin-jwt >= minTokenLen {
			return begin + jwt, last, true
		}
	}
	return from, to, found
}

// jwtEnd returns where a JWT ends whose header ends at a place; 0 if there is no JWT.
func jwtEnd(text string, end int) int {
	for range 2 {
		if end == len(text) || text[end] != '.' {
			return 0
		}
		end = runEnd(text, end+1)
	}
	return end
}

// opaqueIn returns where the first opaque token in a run is. A prefix ends at an underscore, and digits follow: their last
// six are the checksum.
func opaqueIn(run string) (from, to int, found bool) {
	for under := strings.IndexByte(run, '_'); under >= 0; {
		last := under + 1
		for last < len(run) && valueOf[run[last]] >= 0 {
			last++
		}
		for from = under - 1; from >= max(under-maxPrefixLen, 0) && inPrefix(run[from]); from-- {
			if last-from < minTokenLen || run[from] < 'a' {
				continue
			}
			if size := checksumEnd(run[from:last], under+1-from); size > 0 {
				return from, from + size, true
			}
		}
		next := strings.IndexByte(run[under+1:], '_')
		if next < 0 {
			break
		}
		under += 1 + next
	}
	return 0, 0, false
}

// checksumEnd returns where the checksum of a token ends whose body begins at a place; 0 if no checksum is right.
func checksumEnd(s string, body int) int {
	text := []byte(s[:min(len(s), MaxLen)])
	crc := crc32.ChecksumIEEE(text[:body])
	for end := body; end+checksumDigits <= len(text); end++ {
		if end > body {
			crc = crc32.Update(crc, crc32.IEEETable, text[end-1:end])
		}
		size := end + checksumDigits
		if size < minTokenLen || int(valueOf[text[size-1]]) != int(crc%62) { // the last digit rules most places out
			continue
		}
		if sum, ok := parseDigits(s[end:size]); ok && sum == uint64(crc) {
			return size
		}
	}
	return 0
}

func inPrefix(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_' }

func inToken(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
}
