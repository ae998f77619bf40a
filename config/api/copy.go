package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"strings"
)

// CopyList writes all workloads that match as a JSON array, one a line, as they
// come: nothing of them is understood on the way, which would take several times as
// long.
func (c *Client) CopyList(ctx context.Context, f Filter, w io.Writer) error {
	query := f.query()
	query.Set("limit", "10000")
	out, written := bufio.NewWriterSize(w, 64<<10), false
	for {
		body, header, err := c.page(ctx, query, LinesType)
		if err != nil {
			return err
		}
		next := header.Get(RowsNext)
		if !strings.HasPrefix(header.Get("Content-Type"), LinesType) { // an older daemon
			if body, next, err = linesOf(body); err != nil {
				return &Problem{Code: CodeInternal, Detail: "answer of natlessd: " + err.Error(), Err: err}
			}
		}
		for line := range bytes.Lines(body) {
			if written {
				out.WriteString(",\n")
			} else {
				out.WriteString("[\n")
			}
			out.Write(bytes.TrimSuffix(line, []byte("\n")))
			written = true
		}
		if next == "" {
			break
		}
		query.Set("after", next)
	}
	if written {
		out.WriteString("\n]\n")
	} else {
		out.WriteString("[]\n")
	}
	return out.Flush()
}

// linesOf is the workloads of a page in JSON, one a line.
func linesOf(page []byte) (lines []byte, next string, err error) {
	var p struct {
		Workloads []json.RawMessage `json:"workloads"`
		Next      string            `json:"next"`
	}
	if err := json.Unmarshal(page, &p); err != nil {
		return nil, "", err
	}
	for _, one := range p.Workloads {
		lines = append(append(lines, one...), '\n')
	}
	return lines, p.Next, nil
}
