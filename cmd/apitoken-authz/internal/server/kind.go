package server

import (
	"net/http"
	"strings"
)

// kind is a kind of gateway that the configuration serves.
type kind struct {
	name    string
	read    func(s *Server, r *http.Request) (*Request, *problem) // builds the client's request; nil of envoy
	write   func(w http.ResponseWriter, a *Answer)                // nil of envoy
	allowed counters
}

// kinds are so few that a search is quicker than a map.
type kinds []*kind

// of returns a kind by its name in config.Kinds; nil: the configuration does not serve the kind.
func (all kinds) of(name string) *kind {
	for _, k := range all {
		if k.name == name {
			return k
		}
	}
	return nil
}

func (s *Server) newKind(name string) *kind {
	k := &kind{name: name, write: writeAny, allowed: s.metrics.of(name, reasonAllowed)}
	switch name {
	case "nginx":
		k.read, k.write = readNginx, writeNginx
	case "nginx_headers":
		k.read, k.write = readNginxHeaders, writeNginx
	case "caddy":
		k.read = readCaddy
	case "traefik":
		k.read = readForwarded
	}
	return k
}

// nginxPrefix begins the request line that nginx passes on.
const nginxPrefix = "/nginx"

// kindAt returns the kind of gateway that asks at a path; empty: none.
func kindAt(path string) string {
	switch {
	case strings.HasPrefix(path, nginxPrefix+"/"):
		return "nginx"
	case path == "/headers/nginx":
		return "nginx_headers"
	case path == "/caddy":
		return "caddy"
	case path == "/traefik":
		return "traefik"
	}
	return ""
}
