// Package ext stands in for a module that Traefik replaces by a folder of its repository. Traefik's own module archive lacks
// the folder. Traefik embeds the types, which have no fields.
package ext

// HTTP extends the HTTP configuration.
type HTTP struct{}

// Router extends a router.
type Router struct{}
