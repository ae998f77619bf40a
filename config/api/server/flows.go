package server

import (
	"context"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/natless/natless/config/api"
)

// flows answers with records of flows.
func (s *Server) flows(r *http.Request) (any, error) {
	if s.Flows == nil {
		return nil, &api.Problem{Code: api.CodeNotFound, Detail: "flows are not recorded: the configuration has no flows, or has them off"}
	}
	f, err := flowFilter(r)
	if err != nil {
		return nil, err
	}
	p := peerOf(r.Context())
	return stream{"application/x-ndjson", func(ctx context.Context, send Send) error {
		if f.Follow {
			s.Log.Info("somebody follows flows", "workload", f.Workload, "uid", p.uid, "pid", p.pid)
		}
		return s.Flows(ctx, f, send)
	}}, nil
}

func flowFilter(r *http.Request) (f api.FlowFilter, err error) {
	q := r.URL.Query()
	f.Workload, f.Proto = q.Get("workload"), q.Get("proto")
	if p := q.Get("remote"); p != "" {
		if f.Remote, err = prefixOf(p); err != nil {
			return f, invalid("remote", err.Error())
		}
	}
	if f.Port, err = number(q.Get("port"), 65535); err != nil {
		return f, invalid("port", err.Error())
	}
	if d := q.Get("since"); d != "" {
		if f.Since, err = time.ParseDuration(d); err != nil || f.Since < 0 {
			return f, invalid("since", "must be a duration such as 10m")
		}
	}
	if f.Verdict = q.Get("verdict"); f.Verdict != "" && !slices.Contains(api.FlowVerdicts, f.Verdict) {
		return f, invalid("verdict", "must be one of "+strings.Join(api.FlowVerdicts, ", "))
	}
	for name, to := range map[string]*bool{"open": &f.Open, "follow": &f.Follow} {
		if b := q.Get(name); b != "" {
			if *to, err = strconv.ParseBool(b); err != nil {
				return f, invalid(name, "must be true or false")
			}
		}
	}
	return f, nil
}

func prefixOf(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		return netip.ParsePrefix(s)
	}
	a, err := netip.ParseAddr(s)
	return netip.PrefixFrom(a, a.BitLen()), err
}
