package backend

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/report"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/schema"
)

// An answer in JSON Lines has one item a line, for export. Vault passes the answer on unchanged.

const (
	mediaJSONLines = "application/jsonl"

	// maxLinesBytes is the size from which an answer takes no further page. A page has about 1 MiB at most.
	maxLinesBytes = 8 << 20

	// maxLinesPages is the maximum number of pages that an answer reads.
	maxLinesPages = 20
)

// orLines adds to the schema of an answer that the answer may be JSON Lines.
func orLines(responses map[int][]framework.Response) map[int][]framework.Response {
	responses[http.StatusOK] = append(responses[http.StatusOK],
		framework.Response{Description: "One item a line, with format=jsonl", MediaType: mediaJSONLines})
	return responses
}

// wantsLines reports whether a request asks for JSON Lines.
func wantsLines(d *input) (bool, error) {
	format, given := d.GetOk("format")
	if !given {
		return false, nil
	}
	return schema.IsLines(format.(string), true)
}

// lines is an answer in JSON Lines.
type lines struct {
	body  bytes.Buffer
	count int
}

func (l *lines) add(item any) error {
	encoder := json.NewEncoder(&l.body) // ends each value with a line feed
	encoder.SetEscapeHTML(false)
	l.count++
	return encoder.Encode(item)
}

func (l *lines) full() bool { return l.body.Len() >= maxLinesBytes }

// answer returns the answer. next is the value of after for the next request; empty if there are no more items.
func (l *lines) answer(next string) (*response, error) {
	if next != "" {
		if err := l.add(map[string]any{"next": next}); err != nil {
			return nil, err
		}
	}
	return rawResponse(http.StatusOK, mediaJSONLines, private, l.body.Bytes()), nil
}

// reader reads a page of a report.
type reader = func(*report.Request, context.Context, *report.View) (*report.Page, error)

// reportLines answers with pages of a report in JSON Lines.
func reportLines(ctx context.Context, v *report.View, q *report.Request, read reader) (*response, error) {
	limit, err := schema.LinesLimit(q.Limit)
	if err != nil {
		return nil, err
	}
	var l lines
	next := ""
	for range maxLinesPages {
		left := min(limit-l.count, report.MaxLimit)
		q.Limit = &left
		p, err := read(q, ctx, v)
		if err != nil {
			return nil, err
		}
		for _, item := range p.Items {
			if err := l.add(itemMembers(item)); err != nil {
				return nil, err
			}
		}
		next = p.Next
		q.After = &next
		if next == "" || l.count >= limit || l.full() {
			break
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return l.answer(next)
}
