package backend

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/report"
)

// An answer in JSON Lines has one item a line, for export. Vault passes the answer on unchanged.

const (
	mediaJSONLines = "application/jsonl"

	formatJSON  = "json"
	formatLines = "jsonl"

	// maxLines is the maximum number of items in an answer.
	maxLines = 10_000

	// maxLinesBytes is the size from which an answer takes no further page. A page has about 1 MiB at most.
	maxLinesBytes = 8 << 20

	// maxLinesPages is the maximum number of pages that an answer reads.
	maxLinesPages = 20
)

// formatField returns the field that selects JSON Lines.
func formatField() *framework.FieldSchema {
	return query(oneOf(str(fmt.Sprintf("json, or jsonl: one item a line (JSON Lines), at most %d. If there are more, the last "+
		"line has only next, the value of after for the next request. Default: json.", maxLines)), formatJSON, formatLines))
}

// orLines adds to the schema of an answer that the answer may be JSON Lines.
func orLines(responses map[int][]framework.Response) map[int][]framework.Response {
	responses[http.StatusOK] = append(responses[http.StatusOK],
		framework.Response{Description: "One item a line, with format=jsonl", MediaType: mediaJSONLines})
	return responses
}

// wantsLines reports whether a request asks for JSON Lines.
func wantsLines(d *input) (bool, error) {
	format, given := d.GetOk("format")
	if given && format != formatJSON && format != formatLines {
		return false, refusal.Field("format", "%q is not one of: %s, %s", refusal.Clip(format.(string)), formatJSON, formatLines)
	}
	return format == formatLines && given, nil
}

// linesLimit returns how many items an answer in JSON Lines may have.
func linesLimit(d *input) (int, error) {
	limit, given := d.GetOk("limit")
	if !given {
		return maxLines, nil
	}
	if n := limit.(int); n < 1 || n > maxLines {
		return 0, refusal.Field("limit", "must be between 1 and %d with format=%s", maxLines, formatLines)
	}
	return limit.(int), nil
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
type reader func(context.Context, *report.View, *input) (*report.Page, error)

// reportLines answers with pages of a report in JSON Lines.
func reportLines(ctx context.Context, v *report.View, d *input, read reader) (*response, error) {
	limit, err := linesLimit(d)
	if err != nil {
		return nil, err
	}
	var l lines
	page := &input{Raw: maps.Clone(d.Raw), Schema: d.Schema}
	for range maxLinesPages {
		page.Raw["limit"] = min(limit-l.count, report.MaxLimit)
		p, err := read(ctx, v, page)
		if err != nil {
			return nil, err
		}
		for _, item := range p.Items {
			if err := l.add(itemMembers(item)); err != nil {
				return nil, err
			}
		}
		page.Raw["after"] = p.Next
		if p.Next == "" || l.count >= limit || l.full() {
			break
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return l.answer(page.Raw["after"].(string))
}
