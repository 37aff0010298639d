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

// Hosts is a set of host names, in lower case and without ports. A first label "*" stands for exactly
// one label: "*.example.com" covers "api.example.com", neither "example.com" nor "a.b.example.com", as
// in certificates (RFC 9525 section 6.3). The zero value is not restricted.
type Hosts []string

// ParseHosts checks a list of host names.
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

// isHostName accepts letters, digits, hyphens and underscores in labels of 1 to 63 (RFC 1123 section
// 2.1, and the underscore that internal names use), which takes in IPv4 addresses.
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

// ParseHost reads the value of a Host header: a name, perhaps with a port.
func ParseHost(s string) (string, error) {
	host := s
	if name, port, err := net.SplitHostPort(s); err == nil {
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return "", fmt.Errorf("%q is not a host name with a port", clip(s))
		}
		host = name
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

// Contains reports whether host, as ParseHost returns it, is one of the names. The empty host is only in a
// set that is not restricted.
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
