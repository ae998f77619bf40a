package server

import (
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/natless/natless/config/api"
)

// policies gives those in force, those that select a workload, and what they say.
func (s *Server) policies(r *http.Request) (any, error) {
	query := r.URL.Query()
	var q api.PolicyQuestion
	if text := query.Get("workload"); text != "" {
		container, iface, ok := strings.Cut(text, "/")
		if !ok {
			return nil, invalid("workload", "must be container_id/interface")
		}
		q.Workload = api.Key{ContainerID: container, Interface: iface}
		if _, err := s.Registry.Get(q.Workload); err != nil {
			return nil, err
		}
	}
	if text := query.Get("remote"); text != "" {
		a, err := netip.ParseAddr(text)
		if err != nil || !a.Is4() {
			return nil, invalid("remote", "must be an IPv4 address")
		}
		proto, wrong := strconv.ParseUint(query.Get("proto"), 10, 8)
		if wrong != nil {
			return nil, invalid("proto", "must be a number, of a protocol")
		}
		port, wrong := strconv.ParseUint(query.Get("port"), 10, 16)
		if wrong != nil {
			return nil, invalid("port", "must be a port")
		}
		if d := query.Get("direction"); d != "egress" && d != "ingress" {
			return nil, invalid("direction", "must be egress or ingress")
		}
		if q.Workload == (api.Key{}) {
			return nil, invalid("workload", "is missing")
		}
		q.Remote, q.Proto, q.Port, q.Out = a, uint8(proto), uint16(port), query.Get("direction") == "egress"
	}
	if s.Policies == nil {
		none := api.Policies{Policies: []api.Policy{}}
		if q.Remote.IsValid() {
			none.Decision = &api.PolicyDecision{Allow: true}
		}
		return none, nil
	}
	return s.Policies(q)
}
