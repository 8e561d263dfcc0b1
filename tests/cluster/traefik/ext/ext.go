// Package ext is where Traefik's enterprise edition extends the configuration; in the open one there is nothing.
package ext

// HTTP extends the configuration of HTTP.
type HTTP struct{}

// Router extends that of a router.
type Router struct{}
