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
		n      registry.Insiders
		err    error
		engine string
		state  string
		want   []string
	}{
		{registry.Insiders{All: 3}, nil, "", "ok", []string{"3 workloads"}},
		{registry.Insiders{All: 3, Stale: 2}, nil, "", "warn", []string{"2 of 3 workloads", "create these containers again"}},
		{registry.Insiders{All: 3, Stale: 2}, errors.New("old kernel"), "", "fail", []string{"2 of 3", "old kernel"}},
		{registry.Insiders{}, errors.New("old kernel"), "", "fail", []string{"old kernel"}},
		{registry.Insiders{All: 1}, nil, "Calico", "warn", []string{"Calico knows", "IPv4 inside of 1 workload does"}},
		{registry.Insiders{All: 2, Stale: 1}, nil, "Calico", "warn", []string{"Calico knows", "1 of 2"}},
		{registry.Insiders{All: 3}, errors.New("old kernel"), "Calico", "fail", []string{"Calico knows", "old kernel"}},
		{registry.Insiders{}, nil, "Calico", "ok", []string{"0 workloads"}},
	} {
		got := insideCheck(c.n, c.err, c.engine)
		for _, want := range c.want {
			if got.State != c.state || !strings.Contains(got.Detail, want) {
				t.Errorf("%+v, %v: %+v, want %s and %q", c.n, c.err, got, c.state, want)
			}
		}
	}
}
