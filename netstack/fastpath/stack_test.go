//go:build linux

package fastpath

import (
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/natless/natless/tests/netns"
)

// mostVerified is how many instructions of a program the kernel's verifier may have to look
// at: most of what a first start takes is that. The kernel's own limit is a million.
const mostVerified = 100_000

// TestStack: a program and what it calls have 512 bytes of stack together. Kernels round
// each frame up, those before Linux 6.9 to 32 bytes; what fits here must fit there. Neither is the verifier given much to do.
func TestStack(t *testing.T) {
	netns.Require(t, netns.Root)
	for _, load := range []func() (*ebpf.CollectionSpec, error){loadProgram, loadXdp} {
		spec, err := load()
		if err != nil {
			t.Fatal(err)
		}
		for _, itemising := range []uint32{0, 2} { // flows are not itemised, and are in samples
			if err := spec.Variables[programVarItemising].Set(itemising); err != nil {
				t.Fatal(err)
			}
			fits(t, spec.Copy())
		}
	}
}

func fits(t *testing.T, spec *ebpf.CollectionSpec) {
	t.Helper()
	c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for name, p := range c.Programs {
		depth := regexp.MustCompile(`stack depth ([0-9+]+)`).FindStringSubmatch(p.VerifierLog)
		if depth == nil {
			t.Errorf("%s: the kernel does not say: %s", name, p.VerifierLog)
			continue
		}
		own, callee := 0, 0
		for i, frame := range strings.Split(depth[1], "+") {
			n, _ := strconv.Atoi(frame)
			n = (n + 31) / 32 * 32
			if i == 0 {
				own = n
			} else {
				callee = max(callee, n)
			}
		}
		verified := 0
		if n := regexp.MustCompile(`processed ([0-9]+) insns`).FindStringSubmatch(p.VerifierLog); n != nil {
			verified, _ = strconv.Atoi(n[1])
		}
		t.Logf("%s: %s, %d instructions verified", name, depth[1], verified)
		if verified == 0 || verified > mostVerified {
			t.Errorf("%s: the verifier looks at %d instructions", name, verified)
		}
		if own+callee > 512 {
			t.Errorf("%s: %d and %d bytes (%s)", name, own, callee, depth[1])
		}
	}
}
