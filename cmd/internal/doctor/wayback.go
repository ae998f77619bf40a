package doctor

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/natless/natless/cmd/internal/words"
	"github.com/natless/natless/config/api"
)

// One probe for each pool goes out by the uplink, and must come back: an echo request
// to a host outside, the next hop unless another was named, from an address of the
// pool. Its identifier is 0, which is no workload's: no pool gives port 0 away, and
// echo identifiers of workloads lie in their ports. Where an address is given whole,
// all of its identifiers are its workload's, so only one that nobody has is asked from.
// Explicit mappings cannot be probed: all that they have is somebody's.

const checkWayBack = "way back"

// probePatience is how long one echo reply is waited for; two are asked for.
const probePatience = time.Second

// RoundTrip is how far an echo request came.
type RoundTrip struct {
	Back bool // its reply came to this host
	Ours bool // and went to the translator's device
}

// wayBack asks whether what leaves for IPv4 comes back.
func (v *visit) wayBack() {
	if v.Config == nil || v.status == nil || !v.status.Ready {
		return // what answers for the pools is not there
	}
	if v.Config.Uplink != "" {
		if l := v.link(v.uplinkInUse()); l == nil || !l.Up {
			return // told already
		}
	}
	v.probe()
	if !v.failed(checkWayBack) {
		v.oneWay()
	}
}

// probe sends them.
func (v *visit) probe() {
	pools, err := v.Client.Pools(v.ctx)
	if err != nil || len(pools) == 0 {
		return // told already, or there are none
	}
	to := v.Probe
	if !to.IsValid() {
		if to, err = v.Host.NextHop(v.Config.Uplink); err != nil || !to.IsValid() {
			v.unprobed("this host has no IPv4 next hop toward %s to ask", cmp.Or(v.Config.Uplink, "the IPv4 network"))
			return
		}
	}
	own, err := v.Host.Source(to)
	if err != nil || !own.Is4() || own.IsUnspecified() {
		v.unprobed("this host has no IPv4 address of its own to compare with")
		return
	}
	trip, err := v.roundTrip(own, to)
	switch {
	case err != nil:
		v.unknown(checkWayBack, err)
		return
	case !trip.Back:
		v.unprobed("%v does not answer a ping of this host's own: name one that does with --probe", to)
		return
	}
	v.probePools(pools, to)
}

func (v *visit) unprobed(format string, args ...any) {
	if v.sound(checkWayBack) {
		v.ok(checkWayBack, "it cannot be probed: "+format, args...)
	}
}

func (v *visit) probePools(pools []api.Pool, to netip.Addr) {
	var back, not []string
	for _, p := range pools {
		from, why := probeFrom(p)
		if why != "" {
			not = append(not, fmt.Sprintf("%s (%s)", p.Name, why))
			continue
		}
		switch trip, err := v.roundTrip(from, to); {
		case err != nil:
			v.unknown(checkWayBack, err)
			return
		case !trip.Back:
			v.fail(checkWayBack, fmt.Sprintf("have that network route %s to this host, or, where hosts on the link must find it themselves, "+
				"name the uplink's interface in the key uplink; look there for filters against foreign sources, too", prefixWords(p)),
				"pool %s: %v answers this host, and not %v: what workloads send goes out, and nothing comes back", p.Name, to, from)
		case !trip.Ours && !p.Uplink && v.failed("routes"):
			not = append(not, p.Name+" (see routes)") // told already
		case !trip.Ours && !p.Uplink:
			v.fail(checkWayBack, fmt.Sprintf("ip route get %v from %v iif %s, nft list ruleset: see what takes or drops it before %s", from, to,
				cmp.Or(v.Config.Uplink, "UPLINK"), v.Config.Device.Name),
				"pool %s: the answer for %v came back to this host, and not to %s", p.Name, from, v.Config.Device.Name)
		default:
			back = append(back, p.Name)
		}
	}
	if !v.sound(checkWayBack) {
		return
	}
	text := fmt.Sprintf("what %v is sent from %s comes back", to, strings.Join(back, ", "))
	if back == nil {
		text = "no pool can be probed"
	}
	if not != nil {
		text += "; not probed: " + strings.Join(not, ", ")
	}
	if len(v.Config.Mappings)+len(v.Config.MappingsFile) > 0 {
		text += "; explicit mappings cannot be, since all of their ports are somebody's"
	}
	v.ok(checkWayBack, "%s", text)
}

// probeFrom is an address of a pool of which identifier 0 is nobody's, or why there
// is none.
func probeFrom(p api.Pool) (from netip.Addr, why string) {
	for _, a := range p.Addresses {
		if a.Barred == "" && (!p.WholeAddress || a.Workloads == 0 && a.PortsCooling == 0) {
			return a.Address, ""
		}
	}
	if p.WholeAddress {
		return from, "each of its addresses is some workload's"
	}
	return from, "others hold all of its addresses"
}

func prefixWords(p api.Pool) string {
	if len(p.Addresses) == 1 {
		return p.Addresses[0].Address.String()
	}
	return fmt.Sprintf("%v to %v", p.Addresses[0].Address, p.Addresses[len(p.Addresses)-1].Address)
}

// roundTrip asks twice: the first may be lost to the neighbour's being looked for.
func (v *visit) roundTrip(from, to netip.Addr) (trip RoundTrip, err error) {
	for range 2 {
		ctx, cancel := context.WithTimeout(v.ctx, probePatience)
		trip, err = v.Host.RoundTrip(ctx, from, to)
		cancel()
		if err != nil || trip.Back {
			return trip, err
		}
	}
	return trip, nil
}

// oneWayFrom is how many packets must have gone out before it means something that
// none has come back.
const oneWayFrom = 20

// oneWay looks at what was counted.
func (v *visit) oneWay() {
	if detail, remedy := OneWay(v.status.Verdicts, v.Config.Uplink); detail != "" {
		v.warn(checkWayBack, remedy, "%s", detail)
	}
}

// OneWay says what it means that packets go out and none comes in, where it does.
func OneWay(verdicts map[string]uint64, uplink string) (detail, remedy string) {
	out, in := verdicts["forward4"]+verdicts["pass4"], verdicts["forward6"]+verdicts["deliver4"]
	if out < oneWayFrom || in > 0 {
		return "", ""
	}
	return words.Count(out, "packet of workloads") + " went out to IPv4, and none has come back",
		"does the network beyond the uplink route the addresses of pools and mappings to this host? tcpdump -ni " +
			cmp.Or(uplink, "UPLINK") + " shows what it sends"
}
