package api

import (
	"context"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
)

// Policies are those in force, in the order in which they are asked.
type Policies struct {
	Policies []Policy `json:"policies"`
	// Decision is what they say, where that was asked for.
	Decision *PolicyDecision `json:"decision,omitempty"`
}

// Policy is one of them.
type Policy struct {
	Name      string            `json:"name"`
	Tier      string            `json:"tier"`
	Priority  int               `json:"priority"`
	Audit     bool              `json:"audit,omitempty"`
	Answer    string            `json:"answer"`
	Workload  string            `json:"workload,omitempty"` // the pattern of names that it selects; empty: any
	Namespace string            `json:"namespace,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	Workloads int               `json:"workloads"` // that it selects
	Rules     []PolicyRule      `json:"rules"`
}

// PolicyRule is a rule of a policy, and how many packets were denied by it, or would
// have been if the policy were not only audited.
type PolicyRule struct {
	Rule      string         `json:"rule"` // as explain names it
	Direction string         `json:"direction"`
	Action    string         `json:"action"`
	Networks  []netip.Prefix `json:"networks"`
	Protocols []string       `json:"protocols,omitempty"` // tcp/443; none: all
	Denied    uint64         `json:"denied"`
	Audited   uint64         `json:"audited"`
}

// PolicyQuestion is what one may ask of the policies; the zero value: all of them.
type PolicyQuestion struct {
	Workload Key        // whom they select; the zero Key: anybody
	Out      bool       // the workload begins, else the remote does
	Remote   netip.Addr // invalid: nothing is decided
	Proto    uint8
	Port     uint16 // that is connected to
}

// PolicyDecision is what policies say of something that begins.
type PolicyDecision struct {
	Allow   bool   `json:"allow"`
	Rule    string `json:"rule,omitempty"`    // that decides; empty: none matches
	Audited string `json:"audited,omitempty"` // that would deny if its policy were in force
}

// Policies gives the policies in force, or those that select a workload, and what they
// say.
func (c *Client) Policies(ctx context.Context, q PolicyQuestion) (Policies, error) {
	query := url.Values{}
	if q.Workload != (Key{}) {
		query.Set("workload", q.Workload.String())
	}
	if q.Remote.IsValid() {
		query.Set("remote", q.Remote.String())
		query.Set("proto", strconv.Itoa(int(q.Proto)))
		query.Set("port", strconv.Itoa(int(q.Port)))
		query.Set("direction", map[bool]string{true: "egress", false: "ingress"}[q.Out])
	}
	path := "/v1/policies"
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	return answer[Policies](ctx, c, http.MethodGet, path, nil)
}
