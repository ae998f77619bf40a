//go:build linux

package fastpath

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/natless/natless/tests/netns"
)

// mostVerified is how many instructions of a program the kernel's verifier may have to look
// at: most of what a first start takes is that. The kernel's own limit is a million.
const mostVerified = 40_000

// TestStack: a program and whatever it calls, one within another, have 512 bytes of stack
// together. Kernels round each frame up, those before Linux 6.9 to 32 bytes; what fits here
// must fit there. Neither is the verifier given much to do.
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
		frames := map[string]int{}
		functions, calls := callGraph(spec.Programs[name].Instructions)
		sizes := strings.Split(depth[1], "+")
		if len(sizes) != len(functions) {
			t.Fatalf("%s: frames of %v: %v", name, functions, sizes)
		}
		for i, size := range sizes {
			n, _ := strconv.Atoi(size)
			frames[functions[i]] = (n + 31) / 32 * 32
		}
		verified := 0
		if n := regexp.MustCompile(`processed ([0-9]+) insns`).FindStringSubmatch(p.VerifierLog); n != nil {
			verified, _ = strconv.Atoi(n[1])
		}
		if verified == 0 || verified > mostVerified {
			t.Errorf("%s: the verifier looks at %d instructions", name, verified)
		}
		bytes, chain := deepest(functions[0], frames, calls)
		t.Logf("%s: %d bytes of stack (%s), %d instructions verified", name, bytes, chain, verified)
		if bytes > 512 {
			t.Errorf("%s: %d bytes of stack: %s", name, bytes, chain)
		}
	}
}

// callGraph is the functions of a linked program, in their order, and what each calls.
func callGraph(program asm.Instructions) (functions []string, calls map[string][]string) {
	calls = map[string][]string{}
	for _, i := range program {
		if s := i.Symbol(); s != "" {
			functions = append(functions, s)
		}
		if i.IsFunctionCall() {
			last := functions[len(functions)-1]
			calls[last] = append(calls[last], i.Reference())
		}
	}
	return functions, calls
}

// deepest is the most stack that a function and those which it calls have.
func deepest(function string, frames map[string]int, calls map[string][]string) (bytes int, chain string) {
	for _, callee := range calls[function] {
		if n, c := deepest(callee, frames, calls); n > bytes {
			bytes, chain = n, c
		}
	}
	return bytes + frames[function], fmt.Sprintf("%s %d %s", function, frames[function], chain)
}
