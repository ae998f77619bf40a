package route

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	mdl "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/tests/output"
	"github.com/natless/natless/translator/ports"
)

// rules are the host's policy rules in their order; those of ours, whose order
// among themselves means nothing, sorted.
func (h *hostLab) rules() string {
	h.t.Helper()
	rules := strings.Split(h.host.IP("rule"), "\n")
	ours := func(s string) bool { return strings.Contains(s, "proto 110") }
	first := slices.IndexFunc(rules, ours)
	last := first
	for last >= 0 && last < len(rules) && ours(rules[last]) {
		last++
	}
	if first >= 0 {
		slices.Sort(rules[first:last])
	}
	return strings.Join(rules, "\n")
}

// takeForeignRules deletes what systemd-networkd takes for foreign
// (ManageForeignRoutingPolicyRules=, its default): every rule that is not
// "proto kernel".
func (h *hostLab) takeForeignRules() {
	h.t.Helper()
	var err error
	h.host.Do(func() {
		var k *linuxKernel
		if k, err = openKernel("natless0", defaultSysctlDir); err != nil {
			return
		}
		defer k.close()
		var rules []*rawRule
		if rules, err = k.rules(); err != nil {
			return
		}
		for _, r := range rules {
			if r.protocol == unix.RTPROT_KERNEL {
				continue
			}
			if r.priority == 0 {
				err = errors.Join(err, k.sendRule(unix.RTM_DELRULE, 0, r))
				continue
			}
			_, e := k.conn.Execute(mdl.Message{Header: mdl.Header{Type: unix.RTM_DELRULE, Flags: mdl.Request | mdl.Acknowledge}, Data: r.data})
			err = errors.Join(err, e)
		}
	})
	h.must("take foreign rules", err)
}

// local reports whether the host has its own addresses.
func (h *hostLab) local() (err error) {
	h.host.Do(func() {
		for _, a := range []string{"127.0.0.1", hostAddr} {
			routes, e := netlink.RouteGet(net.ParseIP(a))
			if e != nil || len(routes) != 1 || routes[0].Type != unix.RTN_LOCAL {
				err = errors.Join(err, fmt.Errorf("%s is not local: %v, %v", a, routes, e))
			}
		}
	})
	return err
}

// TestForeignRulesTakenAtEveryStep kills the work between any two steps, has
// somebody take away all rules that are not the kernel's, and looks whether the
// host has its own addresses all the same; with the rule of an earlier version,
// which was the only one that looked up the local table, from the next step on.
func TestForeignRulesTakenAtEveryStep(t *testing.T) {
	h := newHostLab(t)
	before := h.snapshot()
	const all = 1 << 20
	start := func(r *reconciler) error { r.desired = sharing(); return r.reconcile() }
	other := func(r *reconciler) error {
		r.desired = sharing()
		r.desired.HostPool.Ports = ports.MustParse("40000-41000,50000-51000")
		return r.reconcile()
	}
	end := func(r *reconciler) error { return r.cleanUp() }
	kernels := h.rules()
	for _, c := range []struct {
		name       string
		first, one func(*reconciler) error
	}{{"start", nil, start}, {"other ports", start, other}, {"end", start, end}} {
		killed := true
		for steps := 0; killed; steps++ {
			var err error
			h.host.Do(func() {
				if c.first != nil {
					err = h.reconcile(all, c.first)
				}
				if err == nil {
					err = h.reconcile(steps, c.one)
				}
			})
			if killed = errors.Is(err, errKilled); err != nil && !killed {
				t.Fatalf("%s, %d steps: %v", c.name, steps, err)
			}
			was := h.rules()
			if e := h.local(); e != nil {
				t.Fatalf("%s killed after %d steps: %v\n%s", c.name, steps, e, was)
			}
			h.takeForeignRules()
			if e := h.local(); e != nil {
				t.Fatalf("%s killed after %d steps, foreign rules taken: %v\n%s", c.name, steps, e, was)
			}
			h.host.Do(func() { err = h.reconcile(all, end) })
			h.must("cleanup", err)
			if got := h.rules(); got != kernels {
				t.Fatalf("%s killed after %d steps, foreign rules taken, cleaned up:\n%s\nbefore that:\n%s", c.name, steps, got, was)
			}
		}
	}
	if diff := cmp.Diff(before, h.snapshot()); diff != "" {
		t.Errorf("left behind: (-before +after)\n%s", diff)
	}
}

// TestLocalTableLost: what an earlier version left when it was killed and its
// rules were taken away is mended by a start with a host pool, by one without,
// and by a cleanup.
func TestLocalTableLost(t *testing.T) {
	h := newHostLab(t)
	kernels := h.rules()
	for name, work := range map[string]func(r *reconciler) error{
		"start":   func(r *reconciler) error { r.desired.MTU = 1500; return r.reconcile() },
		"sharing": func(r *reconciler) error { r.desired = sharing(); return r.reconcile() },
		"cleanup": func(r *reconciler) error { return r.cleanUp() },
	} {
		h.host.IP("rule add pref 33 lookup local proto 110")
		h.host.IP("rule del pref 0")
		h.takeForeignRules()
		if h.local() == nil {
			t.Fatal("the host still has its addresses: nothing is tested")
		}
		var err error
		h.host.Do(func() { err = h.reconcile(1<<20, work) })
		h.must(name, err)
		if err := h.local(); err != nil {
			t.Errorf("after %s: %v\n%s", name, err, h.rules())
		}
		h.host.Do(func() { err = h.reconcile(1<<20, (*reconciler).cleanUp) })
		h.must("cleanup", err)
		if got := h.rules(); got != kernels {
			t.Errorf("after %s and cleanup:\n%s", name, got)
		}
	}
}

// TestRulesOfOthers: rules of others keep their order and every attribute, those
// with no priority given stand behind the local table, and who has moved the
// local table's rule keeps it moved.
func TestRulesOfOthers(t *testing.T) {
	h := newHostLab(t)
	h.host.IP("rule add pref 0 not from 203.0.113.0/24 tos 0x10 fwmark 0x1/0xff uidrange 5-6 lookup 200 proto 77")
	h.host.IP("rule add pref 0 from 198.51.100.0/24 iif lo goto 32766")
	h.host.IP("rule add pref 90 ipproto udp sport 5-6 lookup 201 suppress_prefixlength 8")
	others := h.rules()
	expect := func(when, others string) {
		t.Helper()
		rules := strings.Split(h.rules(), "\n")
		theirs := slices.DeleteFunc(slices.Clone(rules), func(s string) bool { return strings.Contains(s, "proto 110") })
		if got := lines(theirs...); got != others {
			t.Errorf("%s: rules of others\n%s\nwere\n%s", when, got, others)
		}
		for _, r := range rules[:len(rules)-len(theirs)] {
			if !strings.Contains(r, "proto 110") {
				t.Errorf("%s: ours do not come first:\n%s", when, lines(rules...))
			}
		}
	}
	m, stop := h.start(sharing())
	expect("start", others)
	h.host.IP("rule add from 192.0.2.77 lookup 202") // no priority
	others = strings.Replace(others, "goto 32766", "goto 32766\n0:\tfrom 192.0.2.77 lookup 202", 1)
	expect("one without a priority", others)
	d := sharing()
	d.HostPool.Ports = ports.MustParse("40000-41000,50000-51000")
	h.must("set", m.Set(d))
	expect("other ports", others)
	h.must("stop", stop())
	expect("end", others)

	h.host.IP("rule add pref 100 lookup local") // as Cilium does
	for range 4 {                               // the local table's, and those behind it
		h.host.IP("rule del pref 0")
	}
	others = h.rules()
	_, stop = h.start(sharing())
	expect("moved local table", others)
	if err := h.hostWorks(); err != nil {
		t.Error(err)
	}
	h.must("stop", stop())
	expect("moved local table, end", others)
}

// TestNetworkd: the real systemd-networkd takes our rules for foreign ones when
// an interface comes; the host loses nothing, and a start puts them back.
func TestNetworkd(t *testing.T) {
	const networkd = "/lib/systemd/systemd-networkd"
	h := newHostLab(t)
	netns.Require(t, networkd, "unshare", "mount")
	kernels := h.rules()
	h.startAndKill(sharing())
	shared := h.rules()
	dir := t.TempDir()
	h.must("write", os.WriteFile(filepath.Join(dir, "10-new.network"),
		[]byte("[Match]\nName=new0\n[Network]\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n"), 0o644))
	cmd := h.host.Command("unshare", "--mount", "sh", "-ec", `
		mount -t tmpfs none /run/systemd
		mkdir -p /run/systemd/network /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp
		cp "$1"/* /run/systemd/network
		chown -R systemd-network /run/systemd/netif
		mount -t sysfs -o ro none /sys # a container: no udev is waited for
		SYSTEMD_LOG_TARGET=console SYSTEMD_LOG_LEVEL=debug exec `+networkd, "sh", dir)
	var log output.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	h.must("start networkd", netns.Start(cmd))
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	h.within(10*time.Second, "networkd knows the rules: "+log.String(), func() bool {
		return strings.Contains(log.String(), "Enumeration completed") || strings.Contains(log.String(), "rule (configured): priority: 0, 0.0.0.0/0 -> 0.0.0.0/0")
	})
	h.host.IP("link add new0 type veth peer name new1")
	h.within(10*time.Second, "networkd takes foreign rules", func() bool { return h.rules() != shared })
	h.within(soon, "all of ours", func() bool { return h.rules() == kernels })
	if err := h.hostWorks(); err != nil {
		t.Errorf("%v\n%s", err, h.rules())
	}
	_, stop := h.start(sharing())
	if got := h.rules(); got != shared {
		t.Errorf("after the next start:\n%s", got)
	}
	h.must("stop", stop())
	if got := h.rules(); got != kernels {
		t.Errorf("at the end:\n%s", got)
	}
}
