package route

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
)

// fakeKernel is a kernel in memory that writes down what is done to it.
type fakeKernel struct {
	have    state
	facts   facts
	inUse   []hostSocket
	ifaces  []iface
	sysctls map[string]string
	log     []string
	failAt  int // fail the change with this number, from 1
}

var errFake = errors.New("fake failure")

func newFake() *fakeKernel {
	return &fakeKernel{
		have: state{kernelLocalRule{}: true}, facts: facts{device: 7},
		ifaces: []iface{{"lo", 1, false}, {"eth0", 2, true}, {"natless0", 7, false}},
		sysctls: map[string]string{
			"net/ipv6/conf/all/forwarding":      "0",
			"net/ipv6/conf/eth0/forwarding":     "0",
			"net/ipv6/conf/eth0/accept_ra":      "1",
			"net/ipv4/conf/eth0/forwarding":     "0",
			"net/ipv4/conf/natless0/forwarding": "0",
		},
	}
}

func (f *fakeKernel) observe(Desired) (*observed, error) {
	o := &observed{facts: f.facts, have: maps.Clone(f.have), ifaces: f.ifaces}
	o.rpFilter = f.sysctls[rpFilterAll] == "1"
	return o, nil
}

func (f *fakeKernel) prepare(Desired, *observed) {}

func (f *fakeKernel) proxies() (out []proxy, err error) {
	for h := range f.have {
		if p, ok := h.(proxy); ok {
			out = append(out, p)
		}
	}
	return out, nil
}

func (f *fakeKernel) sockets(HostPool) ([]hostSocket, error) { return f.inUse, nil }

func (f *fakeKernel) apply(c change) error {
	f.log = append(f.log, c.String())
	if len(f.log) == f.failAt {
		return errFake
	}
	switch o := c.object.(type) {
	case sysctl:
		f.sysctls[o.key] = o.value
		if o.key == forwarding6 { // one switch turns them all
			for k := range f.sysctls {
				if strings.HasPrefix(k, "net/ipv6/") && strings.HasSuffix(k, "/forwarding") {
					f.sysctls[k] = o.value
				}
			}
		}
	case link:
		maps.DeleteFunc(f.have, func(o object, _ bool) bool { _, ok := o.(link); return ok })
	case nftTable:
		maps.DeleteFunc(f.have, func(h object, _ bool) bool { t, ok := h.(nftTable); return ok && t.family == o.family })
	case nftContent:
		maps.DeleteFunc(f.have, func(h object, _ bool) bool { return sameGuard(h, o) })
	}
	if c.remove {
		delete(f.have, c.object)
	} else if _, ok := c.object.(sysctl); !ok {
		f.have[c.object] = true
	}
	return nil
}

func (f *fakeKernel) sysctl(key string) string { return f.sysctls[key] }
func (f *fakeKernel) close() error             { return nil }

// took gives what was done since the last call.
func (f *fakeKernel) took() string {
	defer func() { f.log = nil }()
	return strings.Join(f.log, "\n")
}

func newTestReconciler(t *testing.T, k kernel, manage bool) *reconciler {
	t.Helper()
	c, err := Config{Device: "natless0", StateDir: t.TempDir(), ManageSysctls: manage}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	return restartReconciler(t, k, c)
}

// restartReconciler is what a start after a kill makes.
func restartReconciler(t *testing.T, k kernel, c Config) *reconciler {
	t.Helper()
	j, err := openJournal(c)
	if err != nil {
		t.Fatal(err)
	}
	d, err := Desired{}.validate()
	if err != nil {
		t.Fatal(err)
	}
	return &reconciler{config: c, kernel: k, journal: j, desired: d}
}

func lines(s ...string) string { return strings.Join(s, "\n") }

func sysctlLines(m map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, k+"="+m[k])
	}
	return strings.Join(out, "\n")
}
