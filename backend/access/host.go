package access

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
)

const (
	maxHosts   = 100
	maxHostLen = 253
)

// Hosts is a set of host names, in lower case and without ports. A first label "*" matches exactly one label, as in
// certificates (RFC 9525 section 6.3): "*.example.com" covers "api.example.com", but neither "example.com" nor
// "a.b.example.com". The zero value is not restricted.
type Hosts []string

// ParseHosts parses a list of host names.
func ParseHosts(list []string) (Hosts, error) {
	if len(list) > maxHosts {
		return nil, fmt.Errorf("%d hosts given, at most %d are allowed", len(list), maxHosts)
	}
	var hosts Hosts
	for _, s := range list {
		host := strings.ToLower(s)
		name := strings.TrimPrefix(host, "*.")
		if !isHostName(name) {
			return nil, fmt.Errorf(`%q is not a host name: want one such as api.example.com or *.example.com, without port`, clip(s))
		}
		if slices.Contains(hosts, host) {
			return nil, fmt.Errorf("%q is given twice", host)
		}
		hosts = append(hosts, host)
	}
	return hosts, nil
}

// isHostName reports whether s consists of labels of 1 to 63 letters, digits, hyphens and underscores. RFC 1123 section
// 2.1 does not allow underscores, but internal names use them. An IPv4 address is a host name, too.
func isHostName(s string) bool {
	if s == "" || len(s) > maxHostLen {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}

// ParseHost returns the host name of a Host header. The header may have a port.
func ParseHost(s string) (string, error) {
	host := s
	if strings.Contains(s, ":") { // otherwise SplitHostPort allocates an error
		if name, port, err := net.SplitHostPort(s); err == nil {
			if _, err := strconv.ParseUint(port, 10, 16); err != nil {
				return "", fmt.Errorf("%q is not a host name with a port", clip(s))
			}
			host = name
		}
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if !isHostName(host) {
		return "", fmt.Errorf("%q is not a host name", clip(s))
	}
	return host, nil
}

// Intersect returns the hosts that are in both sets; ok is false if there are none.
func (h Hosts) Intersect(other Hosts) (_ Hosts, ok bool) {
	switch {
	case len(h) == 0:
		return other, true
	case len(other) == 0:
		return h, true
	}
	var both Hosts
	for _, pair := range [][2]Hosts{{h, other}, {other, h}} {
		for _, name := range pair[0] {
			if pair[1].Contains(name) && !slices.Contains(both, name) {
				both = append(both, name)
			}
		}
	}
	return both, len(both) > 0
}

// Contains reports whether the set covers host, as ParseHost returns it. Only a set that is not restricted contains the
// empty host.
func (h Hosts) Contains(host string) bool {
	if len(h) == 0 {
		return true
	}
	_, parent, _ := strings.Cut(host, ".")
	for _, name := range h {
		if name == host {
			return true
		}
		if wild, ok := strings.CutPrefix(name, "*."); ok && parent != "" && wild == parent {
			return true
		}
	}
	return false
}
