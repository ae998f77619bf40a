package route

import (
	"fmt"
	"slices"
	"strings"
)

// SysctlError says which sysctls forwarding needs when the manager may not, or
// cannot, set them.
type SysctlError struct {
	Needed []string // "net.ipv4.ip_forward=1"
	Err    error    // why it cannot; nil when it may not
}

func (e *SysctlError) Unwrap() error { return e.Err }

func (e *SysctlError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("forwarding needs other sysctls: run sysctl -w %s where they may be set: %v",
			strings.Join(e.Needed, " "), e.Err)
	}
	return fmt.Sprintf("forwarding needs other sysctls: run sysctl -w %s, or set manage_sysctls: true",
		strings.Join(e.Needed, " "))
}

// assignment is for a shell.
func (s sysctl) assignment() string {
	if strings.ContainsAny(s.value, " \t") {
		return s.name() + "='" + s.value + "'"
	}
	return s.name() + "=" + s.value
}

const forwarding6 = "net/ipv6/conf/all/forwarding"

// iface is an interface of the host.
type iface struct {
	name  string
	index int
	ipv4  bool // has a global IPv4 address
}

// sysctlPlan computes which values must hold, in the order in which to set
// them. read gives the present value, "" where there is none.
type sysctlPlan struct {
	ifaces  []iface
	journal *journal
	read    func(key string) string
	want    []sysctl
	wishes  []sysctl // what should hold, and need not
}

func (p *sysctlPlan) need(key, value string) {
	p.want = append(p.want, sysctl{key, value})
}

// forwarding asks for IPv4 forwarding only where packets for the translator
// come in: on the device, and on the uplink or else on every interface with an
// IPv4 address. IPv6 has one switch for the host.
func (p *sysctlPlan) forwarding(c Config, d Desired) {
	if p.read("net/ipv6/conf/"+c.Device+"/disable_ipv6") == "1" {
		p.need("net/ipv6/conf/"+c.Device+"/disable_ipv6", "0")
	}
	p.keepHostBehaviour(c)
	p.need(forwarding6, "1")
	p.need("net/ipv4/conf/"+c.Device+"/forwarding", "1")
	for _, i := range p.ifaces {
		all := d.Uplink == "" && len(d.Uplinks) == 0
		if i.name == d.Uplink || slices.Contains(d.Uplinks, i.name) || all && i.ipv4 && i.name != c.Device {
			p.need("net/ipv4/conf/"+i.name+"/forwarding", "1")
		}
	}
}

// hostPool asks for what sharing the host's address needs: the device may send
// with it, and the host's own connections keep off the pool's ports.
func (p *sysctlPlan) hostPool(c Config, d Desired, f facts) {
	if !d.HostPool.Addr.IsValid() {
		return
	}
	dev := "net/ipv4/conf/" + c.Device + "/"
	p.need(dev+"accept_local", "1")
	p.need(dev+"rp_filter", "0")
	if f.rpFilter {
		p.need(dev+"src_valid_mark", "1")
	}
	p.reservePorts(d.HostPool.Ports)
}

// keepHostBehaviour keeps the host's own IPv6 alive: a host that forwards stops
// listening to router advertisements (accept_ra=1) and loses its default route
// at once and its addresses later. accept_ra=2 listens in spite of forwarding,
// so it must be set before. An interface's own forwarding=1 is noted as well,
// because switching the host's one off again would reset it.
func (p *sysctlPlan) keepHostBehaviour(c Config) {
	switching := p.read(forwarding6) == "0"
	for _, i := range p.ifaces {
		if i.name == "lo" || i.name == c.Device {
			continue
		}
		ra, fwd := "net/ipv6/conf/"+i.name+"/accept_ra", "net/ipv6/conf/"+i.name+"/forwarding"
		if p.journal.has(ra) || switching && p.read(ra) == "1" && p.read(fwd) == "0" {
			p.need(ra, "2")
		}
		if p.journal.has(fwd) || switching && p.read(fwd) == "1" {
			p.need(fwd, "1")
			p.journal.note(fwd, "1", "1")
		}
	}
}

// differing gives those of the values that do not hold.
func (p *sysctlPlan) differing(of []sysctl) []sysctl {
	return slices.DeleteFunc(slices.Clone(of), func(s sysctl) bool {
		return sameSysctl(p.read(s.key), s.value)
	})
}

// obsolete gives what to write to undo changes of ours that no longer need to
// hold, last change first. Where somebody has changed the value since, it is
// theirs now. All is read before anything is written, since one switch can
// turn others.
func (p *sysctlPlan) obsolete() (restore []sysctl, forget []string) {
	for _, e := range slices.Backward(p.journal.Sysctls) {
		isKey := func(s sysctl) bool { return s.key == e.Key }
		if slices.ContainsFunc(p.want, isKey) || slices.ContainsFunc(p.wishes, isKey) {
			continue
		}
		forget = append(forget, e.Key)
		if e.ours(p.read(e.Key)) {
			restore = append(restore, sysctl{e.Key, e.Was})
		}
	}
	return restore, forget
}

// sameSysctl compares values as the kernel prints them: tabs between fields.
func sameSysctl(a, b string) bool {
	return slices.Equal(strings.Fields(a), strings.Fields(b))
}
