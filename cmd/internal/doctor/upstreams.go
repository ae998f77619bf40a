package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
)

// upstreams asks each server that DNS64 asks for what every one knows by itself, the
// addresses of localhost (RFC 6761 6.3). The resolver itself is no judge: it answers for ipv4only.arpa alone, and
// knows from its cache what nobody tells it any more.
func (v *visit) upstreams(check string) {
	servers := v.Config.DNS64.Upstreams
	from := "dns64.upstreams"
	if len(servers) == 0 {
		var err error
		from = "/etc/resolv.conf"
		if servers, err = v.Host.Nameservers(); err != nil || len(servers) == 0 {
			v.fail(check, "name servers in dns64.upstreams, or in /etc/resolv.conf", "there is no upstream to ask: %v", orNone(err))
			return
		}
	}
	silent := make([]error, len(servers))
	var asked sync.WaitGroup
	for i, s := range servers {
		asked.Go(func() {
			ctx, cancel := context.WithTimeout(v.ctx, patience)
			defer cancel()
			silent[i] = v.Host.AskUpstream(ctx, s)
		})
	}
	asked.Wait()
	var reasons []string
	for i, err := range silent {
		if err != nil {
			reasons = append(reasons, fmt.Sprintf("%v: %v", servers[i], err))
		}
	}
	remedy := fmt.Sprintf("name others in dns64.upstreams, or mend the way there (dig @%s localhost); names that are not in the cache wait for them", hostOf(servers))
	switch {
	case reasons == nil:
	case len(reasons) == len(servers):
		v.fail(check, remedy, "none of the upstreams of %s answers: %s", from, strings.Join(reasons, "; "))
	default:
		v.warn(check, remedy, "%d of the %d upstreams of %s do not answer: %s", len(reasons), len(servers), from, strings.Join(reasons, "; "))
	}
}

func hostOf(servers []netip.AddrPort) string { return servers[0].Addr().String() }

func orNone(err error) error {
	if err == nil {
		return errors.New("none is named")
	}
	return err
}
