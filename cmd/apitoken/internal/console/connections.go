package console

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// compareTime is the time limit of a comparison that somebody has started: Vault answers after at most 45 seconds.
const compareTime = time.Minute

// connectionRow are the members of a connection that the page shows: never its credential, not even the parts that are no
// secrets.
type connectionRow struct {
	Provider    string  `json:"provider"`
	URL         string  `json:"url"`
	Description string  `json:"description"`
	Owner       string  `json:"owner"`
	ReviewBy    string  `json:"review_by"`
	RotatedAt   instant `json:"rotated_at"`
	Tokens      int64   `json:"tokens"`
	Queue       struct {
		Count            int64   `json:"count"`
		Oldest           instant `json:"oldest"`
		LastError        string  `json:"last_error"`
		NextTry          instant `json:"next_try"`
		Unrevocable      int64   `json:"unrevocable"`
		UnrevocableUntil instant `json:"unrevocable_until"`
		Root             string  `json:"root"`
	} `json:"queue"`
}

// connectionsContent is the data of the page of connections.
type connectionsContent struct {
	Names       []string
	Connections []part[connectionRow]
	Problem     *problem
	Next, First string // addresses of pages; empty: none
}

func (s *Server) connections(v *view) (any, error) {
	c := &connectionsContent{First: first("/connections", v)}
	page, more, err := names(v, "connections")
	if err != nil {
		c.Problem = problemOf(err)
		return c, nil
	}
	c.Names, c.Next = page, next("/connections", page, more)
	c.Connections = readAll[connectionRow](v.ctx, v.caller, "connections", page)
	return c, nil
}

// comparison is what the engine tells of the last comparison of the tokens at a service with its own.
type comparison struct {
	State       string  `json:"state"`
	StartedAt   instant `json:"started_at"`
	ComparedAt  instant `json:"compared_at"`
	NextAt      instant `json:"next_at"`
	Listed      int64   `json:"listed"`
	UnknownHere int64   `json:"unknown_here"`
	GoneThere   int64   `json:"gone_there"`
	Foreign     int64   `json:"foreign"`
	Unconfirmed int64   `json:"unconfirmed"`
	Kept        int64   `json:"kept"`
	Complete    bool    `json:"complete"`
	Error       string  `json:"error"`
}

// connectionContent is the data of the page of one connection.
type connectionContent struct {
	Name        string
	Connection  part[connectionRow]
	Comparison  part[comparison]
	Items       part[[]reportItem]
	Next, First string // addresses of pages; empty: none
}

func (s *Server) connection(v *view) (any, error) {
	c := &connectionContent{Name: v.PathValue("name")}
	if !validName(c.Name) {
		return nil, refusal("name", "is not the name of a connection")
	}
	// The items of a connection are in a row.
	begin := upstreamToken + "/" + c.Name + "/"
	after := v.URL.Query().Get("after")
	if after != "" {
		if !strings.HasPrefix(after, begin) {
			return nil, refusal("after", "is not of a page of this connection")
		}
		c.First = "/connections/" + c.Name
		begin = after
	}
	var group errgroup.Group
	group.Go(func() error {
		c.Connection = readPart[connectionRow](v.ctx, v.caller, "connections/"+c.Name)
		return nil
	})
	group.Go(func() error {
		c.Comparison = readPart[comparison](v.ctx, v.caller, "connections/"+c.Name+"/reconcile")
		return nil
	})
	group.Go(func() error {
		c.items(v, begin)
		return nil
	})
	_ = group.Wait() // a problem is part of the page
	if p := c.Connection.Problem; p != nil && p.Kind == missing {
		return nil, p
	}
	return c, nil
}

// readPart reads a part of a page.
func readPart[T any](ctx context.Context, c *caller, path string) part[T] {
	a, err := read[T](ctx, c, path, nil)
	if err != nil {
		return part[T]{Problem: problemOf(err)}
	}
	return part[T]{Value: a.Data}
}

// items reads the items of the connection in the report.
func (c *connectionContent) items(v *view, after string) {
	a, err := read[reportPage](v.ctx, v.caller, "report/orphans", url.Values{
		"kind": {upstreamToken}, "after": {after}, "limit": {strconv.Itoa(itemsOnPage)},
	})
	if err != nil {
		c.Items.Problem = problemOf(err)
		return
	}
	for _, item := range a.Data.Items {
		if item.Connection != c.Name { // of the next connection
			return
		}
		c.Items.Value = append(c.Items.Value, item)
	}
	if strings.HasPrefix(a.Data.Next, upstreamToken+"/"+c.Name+"/") {
		c.Next = "/connections/" + c.Name + "?" + url.Values{"after": {a.Data.Next}}.Encode()
	}
}

// compare has the engine compare the tokens at a service with its own.
func (s *Server) compare(w http.ResponseWriter, r *http.Request, one *session) {
	name := r.PathValue("name")
	if !validName(name) {
		s.answer(w, r, one, "", "", nil, refusal("name", "is not the name of a connection"))
		return
	}
	done, err := writeWithin(r.Context(), one.caller, compareTime, "connections/"+name+"/reconcile", nil)
	said := "The tokens of the connection " + name + " were compared."
	if err == nil && done.Data["state"] == "running" {
		said = "The comparison of the connection " + name + " goes on. Open the page again to see the result."
	}
	s.answer(w, r, one, "/connections/"+name, said, done, err)
}
