//go:build linux

package daemon

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/natless/natless/translator/policy"
)

// TestPoliced: the check says what was denied, by which rule most, what is only audited,
// and which policies select nobody.
func TestPoliced(t *testing.T) {
	t.Parallel()
	deny := []policy.Rule{{Name: "rest", Action: policy.Deny, Networks: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}}}
	table, err := policy.Compile([]policy.Policy{{Name: "web", Subject: policy.Subject{Name: "web"}, Egress: deny},
		{Name: "typo", Subject: policy.Subject{Namespace: "shpo"}, Egress: deny}, {Name: "seen", Audit: true, Ingress: deny}}, policy.NewLedger())
	if err != nil {
		t.Fatal(err)
	}
	if c := policed(table, false); c.State != "ok" || c.Detail != "3 policies in force, 0 packets denied" {
		t.Errorf("without workloads: %+v", c)
	}
	n, err := table.Number(policy.Workload{Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	if table, err = table.With(n); err != nil {
		t.Fatal(err)
	}
	for _, r := range table.All() {
		switch r.ID() {
		case "web egress rest":
			r.Denied.Add(5)
		case "seen ingress rest":
			r.Audited.Add(2)
		}
	}
	c := policed(table, true)
	for _, want := range []string{"5 packets denied, most by web egress rest", "2 packets passed", "no workload is selected by typo:"} {
		if c.State != "warn" || !strings.Contains(c.Detail, want) {
			t.Errorf("no %q in %+v", want, c)
		}
	}
}
