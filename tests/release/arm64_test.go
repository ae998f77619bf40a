//go:build linux

package release

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/natless/natless/tests/netns"
)

const qemu = "qemu-aarch64-static"

// TestARM64: the programs for arm64 run, as far as a processor goes that is emulated on
// this kernel: what they ask of the kernel by netlink and bpf(2) is not proven here.
func TestARM64(t *testing.T) {
	netns.Require(t, qemu)
	dir := filepath.Join(unpack(t, file(t, "natless-*-linux-arm64.tar.gz")), "natless-"+version(t)+"-linux-arm64")
	for _, program := range []string{"natless", "natlessd", "natless-cni"} {
		if out := emulate(t, filepath.Join(dir, program), "--version"); strings.TrimSpace(out) != program+" "+version(t) && program != "natless" {
			t.Errorf("%s says %s", program, out)
		}
	}
	config := filepath.Join(t.TempDir(), "natless.yaml")
	text := "prefix: 64:ff9b::/96\naddresses: {ipv4: 192.0.2.1, ipv6: \"2001:db8::1\"}\nmappings: [{ipv6: \"2001:db8:6::2\", ipv4: 198.51.100.2}]\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := emulate(t, filepath.Join(dir, "natlessd"), "--check", "--config", config); !strings.Contains(out, "nothing wrong") {
		t.Errorf("natlessd --check: %s", out)
	}
	out := emulate(t, filepath.Join(dir, "natless"), "explain", "--config", config, "ipv6", "src", "2001:db8:6::2", "dst", "64:ff9b::9.9.9.9", "tcp", "sport", "40000", "dport", "443")
	if !strings.Contains(out, "src 198.51.100.2 dst 9.9.9.9 tcp sport 40000 dport 443") {
		t.Errorf("natless explain: %s", out)
	}
	if out := emulate(t, filepath.Join(dir, "natless"), "demo"); !strings.Contains(out, "198.51.100") {
		t.Errorf("natless demo: %s", out)
	}
}

func emulate(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), qemu, append([]string{program}, args...)...).CombinedOutput()
	if err != nil {
		t.Errorf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// TestARM64Translator: the translator's own tests, compiled for arm64. Those that measure
// allocations or time say nothing of an emulated processor, and are short ones.
func TestARM64Translator(t *testing.T) {
	netns.Require(t, qemu)
	cmd := exec.CommandContext(t.Context(), "go", "test", "-short", "-count=1", "-exec", qemu, "-timeout", "40m", "./translator/...")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "GOARCH=arm64", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	} else {
		t.Logf("%s", out)
	}
}
