package route

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/natless/natless/translator/ports"
)

func sharingFake() (*fakeKernel, Desired) {
	k := newFake()
	k.sysctls[forwarding6] = "1"
	k.sysctls[rpFilterAll] = "0"
	k.sysctls[reservedPorts] = "8080"
	k.sysctls[portRange] = "32768\t60999"
	return k, Desired{HostPool: HostPool{
		Addr: netip.MustParseAddr("192.0.2.10"), Ports: ports.MustParse("40000-49999"),
	}}
}

// TestHostPoolStates: on the way there the local table is found at every step,
// and so on the way back.
func TestHostPoolStates(t *testing.T) {
	k, d := sharingFake()
	r := newTestReconciler(t, k, true)
	if err := r.set(Desired{MTU: 1500}); err != nil {
		t.Fatal(err)
	}
	k.took()
	d.MTU = 1500
	if err := r.set(d); err != nil {
		t.Fatal(err)
	}
	want := lines(
		"+ sysctl net.ipv4.conf.natless0.accept_local = 1",
		"+ sysctl net.ipv4.conf.natless0.rp_filter = 0",
		"+ sysctl net.ipv4.ip_local_reserved_ports = 8080,40000-49999",
		"+ route 0.0.0.0/0 table 110",
		"+ nft ip",
		"\tcopy: not what the translator sends",
		"\tcopy: not what is not for 192.0.2.10",
		"\tcopy: not what has its ports: policy rules take that",
		"\tcopy: copy later fragments to device 7",
		"\tcopy: copy later fragments of icmp to device 7",
		"\tcopy: copy first fragments to ports 40000-49999 to device 7",
		"\tcopy: copy echo replies with identifiers 40000-49999 to device 7",
		"\tcopy: copy icmp errors 3 about ports 40000-49999 to device 7",
		"\tcopy: copy icmp errors 3 about echo identifiers 40000-49999 to device 7",
		"\tcopy: copy icmp errors 11 about ports 40000-49999 to device 7",
		"\tcopy: copy icmp errors 11 about echo identifiers 40000-49999 to device 7",
		"\tcopy: copy icmp errors 12 about ports 40000-49999 to device 7",
		"\tcopy: copy icmp errors 12 about echo identifiers 40000-49999 to device 7",
		"\tguard: drop to 192.0.2.10 ports 40000-49999: not the host's",
		"+ rule 0 to 192.0.2.10 dccp dport 40000-49999 lookup 110",
		"+ rule 0 to 192.0.2.10 sctp dport 40000-49999 lookup 110",
		"+ rule 0 to 192.0.2.10 tcp dport 40000-49999 lookup 110",
		"+ rule 0 to 192.0.2.10 udp dport 40000-49999 lookup 110",
		"+ rule 0 to 192.0.2.10 udplite dport 40000-49999 lookup 110",
		"+ rule 0 lookup local again, behind ours",
		"- rules of priority 0 that stand there again",
	)
	if diff := cmp.Diff(want, k.took()); diff != "" {
		t.Errorf("to share: (-want +got)\n%s", diff)
	}
	if err := r.set(Desired{MTU: 1500}); err != nil {
		t.Fatal(err)
	}
	steps := strings.Split(k.took(), "\n")
	tail := lines(steps[len(steps)-4:]...)
	wantTail := lines("- route 0.0.0.0/0 table 110",
		"+ sysctl net.ipv4.ip_local_reserved_ports = 8080", // when nothing is diverted any more
		"+ sysctl net.ipv4.conf.natless0.rp_filter = ",
		"+ sysctl net.ipv4.conf.natless0.accept_local = ")
	if diff := cmp.Diff(wantTail, tail); diff != "" || strings.Contains(lines(steps...), "lookup local") {
		t.Errorf("back again: %q, end (-want +got)\n%s", steps, diff)
	}
	if got := k.sysctls[reservedPorts]; got != "8080" {
		t.Errorf("reserved ports are %q afterwards", got)
	}
}

// TestNobodyLooksUpLocal: where no rule at all looks up the local table, start,
// end and cleanup make one before anything else, with a host pool and without.
func TestNobodyLooksUpLocal(t *testing.T) {
	_, sharing := sharingFake()
	for name, work := range map[string]func(*reconciler) error{
		"start":   func(r *reconciler) error { return r.set(Desired{MTU: 1500}) },
		"sharing": func(r *reconciler) error { return r.set(sharing) },
		"cleanup": func(r *reconciler) error { return r.cleanUp() },
	} {
		k, _ := sharingFake()
		delete(k.have, kernelLocalRule{})
		// What an earlier version left: its own rule for the table, and no other.
		k.have.add(rule{priority: 33, table: 255})
		if err := work(newTestReconciler(t, k, true)); err != nil {
			t.Fatal(err)
		}
		steps := strings.Split(k.took(), "\n")
		local := slices.Index(steps, "+ rule 0 lookup local")
		if old := slices.Index(steps, "- rule 33 lookup 255"); local < 0 || old < local || !k.have[kernelLocalRule{}] {
			t.Errorf("%s: %q", name, steps)
		}
	}
}

// TestRulesWithoutPriority: who adds rules without a priority meanwhile is told
// in which order they stand.
func TestRulesWithoutPriority(t *testing.T) {
	_, d := sharingFake()
	for n, told := range []bool{false, false, true} { // one alone has no order
		if _, warnings := want(Config{}, d, facts{device: 7, zeroth: n}); (len(warnings) > 0) != told {
			t.Errorf("%d rules: %q", n, warnings)
		}
	}
	if _, warnings := want(Config{}, Desired{}, facts{device: 7, zeroth: 2}); len(warnings) > 0 {
		t.Errorf("nothing shared: %q", warnings)
	}
}

// TestLocalPorts: the host keeps enough ports for itself, and gets back what it
// had, with what others changed meanwhile.
func TestLocalPorts(t *testing.T) {
	k, d := sharingFake()
	d.HostPool.Ports = ports.MustParse("32768-65535")
	r := newTestReconciler(t, k, true)
	if err := r.set(d); err != nil {
		t.Fatal(err)
	}
	check := func(key, want string) {
		t.Helper()
		if got := k.sysctls[key]; !sameSysctl(got, want) {
			t.Errorf("%s = %q, want %q", key, got, want)
		}
	}
	check(reservedPorts, "8080,32768-65535")
	check(portRange, "10000 32767") // the old range lay within the pool
	k.sysctls[reservedPorts] = "8080,9090,32768-65535"
	d.HostPool.Ports = ports.MustParse("50000-59999")
	if err := r.set(d); err != nil {
		t.Fatal(err)
	}
	check(reservedPorts, "8080,9090,50000-59999")
	check(portRange, "32768 60999")
	if err := r.cleanUp(); err != nil {
		t.Fatal(err)
	}
	check(reservedPorts, "8080,9090")
	check(portRange, "32768 60999")
}

// TestHostPoolInUse: what the host uses is left out and told until it is free;
// what a workload has is not, and what leads to the device stays.
func TestHostPoolInUse(t *testing.T) {
	k, d := sharingFake()
	assigned := map[uint16]bool{45000: true}
	var told []InUse
	r := newTestReconciler(t, k, true)
	r.config.Assigned = func(a netip.Addr, port uint16) bool { return a == d.HostPool.Addr && assigned[port] }
	r.config.InUse = func(u InUse) { told = append(told, u) }
	expect := func(when, ranges string, inUse string) {
		t.Helper()
		if err := r.set(d); err != nil {
			t.Fatal(err)
		}
		var tcp []string
		for _, o := range sorted(k.have) {
			if o, ok := o.(rule); ok && o.proto == 6 {
				tcp = append(tcp, o.ports.String())
			}
		}
		if got := strings.Join(tcp, ","); got != ranges {
			t.Errorf("%s: rules for %s, want %s", when, got, ranges)
		}
		if got := told[len(told)-1].Ports.String(); got != inUse {
			t.Errorf("%s: told %s, want %s", when, got, inUse)
		}
		if got := k.sysctls[reservedPorts]; got != "8080,40000-49999" {
			t.Errorf("%s: reserved %s", when, got)
		}
	}
	k.inUse = []hostSocket{{40000, "tcp 0.0.0.0:40000 listening"}, {45000, "tcp 0.0.0.0:45000 listening"}}
	expect("start", "40001-49999", "40000")
	if got := told[len(told)-1].String(); !strings.Contains(got, "40000 listening") || strings.Contains(got, "45000") {
		t.Errorf("told %s", got)
	}
	k.inUse = append(k.inUse, hostSocket{41000, "udp 0.0.0.0:41000 bound"})
	expect("another binds what leads to the device", "40001-49999", "40000")
	assigned[40000] = true // in the moment before it was told
	expect("assigned all the same", "40000-49999", "")
	k.inUse = nil
	expect("free", "40000-49999", "")
}

// TestAssignedMeanwhile: a port that is given away while its use is found out
// leads to its workload.
func TestAssignedMeanwhile(t *testing.T) {
	k, d := sharingFake()
	k.inUse = []hostSocket{{40000, "tcp 0.0.0.0:40000 listening"}}
	assigned := false
	r := newTestReconciler(t, k, true)
	r.config.InUse = func(InUse) { assigned = true } // the last moment
	r.config.Assigned = func(netip.Addr, uint16) bool { return assigned }
	if err := r.set(d); err != nil {
		t.Fatal(err)
	}
	if got := k.have.String(); !strings.Contains(got, "tcp dport 40000-49999") {
		t.Errorf("got\n%s", got)
	}
}

// TestManyHoles: somebody who binds every other port does not make thousands of
// policy rules, nor takes what a workload has.
func TestManyHoles(t *testing.T) {
	var odd ports.Builder
	for port := uint16(40000); port < 50000; port += 2 {
		odd.Add(ports.Single(port))
	}
	asked := ports.MustParse("45001,46001")
	set := join(odd.Set(), maxHoles, func(gap ports.Range) bool { return !asked.OverlapsRange(gap) })
	if set.Len() > maxHoles || set.Overlaps(asked) || set.Min() != 40000 || set.Run(set.Len()-1).Last != 49998 {
		t.Errorf("%d runs: %v", set.Len(), set)
	}
}

// TestLastPort: 65535 cannot be named in a policy rule, so it is copied.
func TestLastPort(t *testing.T) {
	k, d := sharingFake()
	d.HostPool.Ports = ports.MustParse("65535")
	r := newTestReconciler(t, k, true)
	if err := r.set(d); err != nil {
		t.Fatal(err)
	}
	got := k.have.String()
	if !strings.Contains(got, "copy: copy port 65535 to device 7") || strings.Contains(got, "dport") {
		t.Errorf("got\n%s", got)
	}
	for _, proto := range portProtocols {
		if protocolNames[proto] == "" {
			t.Errorf("protocol %d has no name", proto)
		}
	}
}
