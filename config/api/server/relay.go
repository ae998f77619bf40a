package server

import (
	"net/http"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/lease"
)

// maxRules bounds the body of a set of rules, in bytes.
const maxRules = lease.MostRules * 256

// putRules is the route of such a set.
const putRules = "PUT /v1/relay"

// patchRules is that of what is another in it.
const patchRules = "PATCH /v1/relay"

// noRelay is the answer where this host is none.
func noRelay() error {
	return &api.Problem{Code: api.CodeNotFound, Detail: "this host is no relay (relay.ipv4)"}
}

func (s *Server) relay(*http.Request) (any, error) {
	if s.Relay == nil {
		return nil, noRelay()
	}
	return some(s.Relay())
}

func (s *Server) putRules(r *http.Request) (any, error) {
	if s.PutRules == nil {
		return nil, noRelay()
	}
	var set api.RuleSet
	if err := decodeSet(r.Body, &set, "rules"); err != nil {
		return nil, err
	}
	if set.Rules == nil {
		return nil, invalid("rules", "is missing: [] takes all away")
	}
	p := peerOf(r.Context())
	got, err := s.PutRules(r.Context(), set)
	if err != nil {
		s.Log.Warn("a set of rules was refused", "epoch", set.Epoch, "rules", len(set.Rules), "err", err, "uid", p.uid, "pid", p.pid)
	}
	return some(got, err)
}

func (s *Server) patchRules(r *http.Request) (any, error) {
	if s.PatchRules == nil {
		return nil, noRelay()
	}
	var delta api.RuleDelta
	if err := decodeSet(r.Body, &delta, "changes of rules"); err != nil {
		return nil, err
	}
	p := peerOf(r.Context())
	got, err := s.PatchRules(r.Context(), delta)
	if err != nil {
		s.Log.Warn("a change of rules was refused", "epoch", delta.Epoch, "come", len(delta.Rules), "gone", len(delta.Gone), "err", err,
			"uid", p.uid, "pid", p.pid)
	}
	return some(got, err)
}
