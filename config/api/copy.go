package api

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
)

// CopyList writes all workloads that match as a JSON array, one a line, as they
// come: nothing of them is understood on the way, which would take several times as
// long.
func (c *Client) CopyList(ctx context.Context, f Filter, w io.Writer) error {
	query := f.query()
	query.Set("limit", "1000")
	out, written := bufio.NewWriter(w), 0
	for {
		page, err := answer[struct {
			Workloads []json.RawMessage `json:"workloads"`
			Next      string            `json:"next"`
		}](ctx, c, http.MethodGet, "/v1/workloads?"+query.Encode(), nil)
		if err != nil {
			return err
		}
		for _, one := range page.Workloads {
			if written > 0 {
				out.WriteString(",\n")
			} else {
				out.WriteString("[\n")
			}
			out.Write(one)
			written++
		}
		if page.Next == "" {
			break
		}
		query.Set("after", page.Next)
	}
	if written > 0 {
		out.WriteString("\n]\n")
	} else {
		out.WriteString("[]\n")
	}
	return out.Flush()
}
