// Package doctor looks over a host that runs natlessd, or is about to: device,
// routes, sysctls, packet filters, MTU arithmetic, resolver, API, clock and
// other translators. Each finding says what is the matter and what to do. It
// only reads, but for one echo request to each of the translator's own
// addresses and from an address of each pool, one question to its resolver and to
// each of its upstreams, and ARP probes on the uplink; what would mend something may
// not enter here.
package doctor

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
)

// State is how a thing is.
type State string

// The states. Warn is what works now and may not later, or only in part.
const (
	OK   State = "ok"
	Warn State = "warn"
	Fail State = "fail"
)

// Finding is one line of the doctor's report.
type Finding struct {
	Check  string `json:"check"`
	State  State  `json:"state"`
	Detail string `json:"detail"`
	Remedy string `json:"remedy,omitempty"` // empty when the state is ok
}

// Patient is what is looked over.
type Patient struct {
	Config *config.Config // nil: it cannot be read; ConfigError says why
	// ConfigPath is where it came from, and ConfigError what is wrong with it.
	ConfigPath  string
	ConfigError error
	Client      *api.Client
	Version     string // of this program
	Host        Host
	// NetworkConfigs is the directory of the container engine's; empty: there is none.
	NetworkConfigs string
	Now            time.Time
	Probe          netip.Addr // who is asked whether pools have a way back; the zero Addr: the next hop
}

// visit is one look at a patient.
type visit struct {
	Patient
	ctx       context.Context
	status    *api.Status // nil: the daemon does not answer
	apiError  error
	workloads []api.Workload
	findings  []Finding
	before    bool // the daemon is not expected to run
}

// Examine makes every check, in an order that explains later findings by
// earlier ones. Progress, when it is not nil, is told each finding at once.
func Examine(ctx context.Context, p Patient, progress func(Finding)) []Finding {
	v := &visit{Patient: p, ctx: ctx}
	told := 0
	for _, check := range []func(*visit){
		(*visit).configuration, (*visit).api, (*visit).sockets, (*visit).kernel, (*visit).device, (*visit).uplinkAddress, (*visit).sysctls, (*visit).routes, (*visit).held,
		(*visit).mtu, (*visit).answers, (*visit).neighbours, (*visit).wayBack, (*visit).filters, (*visit).antiSpoofing, (*visit).connectionTracking,
		(*visit).offload, (*visit).fastPath, (*visit).mapRules, (*visit).resolver, (*visit).pools, (*visit).plugin, (*visit).containers, (*visit).inside,
		(*visit).disk, (*visit).clock,
		(*visit).translators,
	} {
		if ctx.Err() != nil {
			break
		}
		check(v)
		for ; told < len(v.findings) && progress != nil; told++ {
			progress(v.findings[told])
		}
	}
	return v.findings
}

// BeforeStart makes the checks that need no daemon, and no daemon's work: whether a
// configuration fits this host. What natlessd itself makes or sets is no finding.
func BeforeStart(ctx context.Context, p Patient) []Finding {
	v := &visit{Patient: p, ctx: ctx, before: true}
	for _, check := range []func(*visit){(*visit).registry, (*visit).sockets, (*visit).kernel, (*visit).device, (*visit).uplinkAddress,
		(*visit).sysctls, (*visit).held, (*visit).mtu, (*visit).upstreamsAlone, (*visit).translators} {
		check(v)
	}
	return v.findings
}

// Worst is the gravest state among findings.
func Worst(findings []Finding) State {
	worst := OK
	for _, f := range findings {
		if f.State == Fail {
			return Fail
		}
		if f.State == Warn {
			worst = Warn
		}
	}
	return worst
}

func (v *visit) ok(check, format string, args ...any) {
	v.findings = append(v.findings, Finding{check, OK, fmt.Sprintf(format, args...), ""})
}

func (v *visit) warn(check, remedy, format string, args ...any) {
	v.findings = append(v.findings, Finding{check, Warn, fmt.Sprintf(format, args...), remedy})
}

func (v *visit) fail(check, remedy, format string, args ...any) {
	v.findings = append(v.findings, Finding{check, Fail, fmt.Sprintf(format, args...), remedy})
}

// unknown is for what could not be looked at.
func (v *visit) unknown(check string, err error) {
	v.warn(check, "run it as root, in the daemon's network namespace", "cannot be read: %v", err)
}

// failed reports whether check has found what is wrong.
func (v *visit) failed(check string) bool {
	return slices.ContainsFunc(v.findings, func(f Finding) bool { return f.Check == check && f.State == Fail })
}

// sound says that check has found nothing so far: time for its ok line.
func (v *visit) sound(check string) bool {
	for _, f := range v.findings {
		if f.Check == check {
			return false
		}
	}
	return true
}
