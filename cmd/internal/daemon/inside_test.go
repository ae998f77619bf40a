//go:build linux

package daemon

import (
	"errors"
	"strings"
	"testing"

	"github.com/natless/natless/config/registry"
)

func TestInsideCheck(t *testing.T) {
	for _, c := range []struct {
		n     registry.Insiders
		err   error
		state string
		want  []string
	}{
		{registry.Insiders{All: 3}, nil, "ok", []string{"3 workloads"}},
		{registry.Insiders{All: 3, Stale: 2}, nil, "warn", []string{"2 of 3 workloads", "create these containers again"}},
		{registry.Insiders{All: 3, Stale: 2}, errors.New("old kernel"), "fail", []string{"2 of 3", "old kernel"}},
		{registry.Insiders{}, errors.New("old kernel"), "fail", []string{"old kernel"}},
	} {
		got := insideCheck(c.n, c.err)
		for _, want := range c.want {
			if got.State != c.state || !strings.Contains(got.Detail, want) {
				t.Errorf("%+v, %v: %+v, want %s and %q", c.n, c.err, got, c.state, want)
			}
		}
	}
}
