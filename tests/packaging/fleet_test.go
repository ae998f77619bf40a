//go:build linux

package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/natless/natless/tests/netns"
)

// fleetUnits are those of natless-fleet, and how exposed systemd says that they are, of 10.
var fleetUnits = map[string]float64{"agent": 2, "relay": 2, "controller": 2}

// TestFleetUnits: systemd understands the units, finds next to nothing exposed, and no
// service is root.
func TestFleetUnits(t *testing.T) {
	netns.Require(t, "systemd-analyze")
	for name, most := range fleetUnits {
		unit := "../../config/deploy/systemd/natless-fleet-" + name + ".service"
		out, err := exec.Command("systemd-analyze", "verify", "--man=no", unit).CombinedOutput()
		for line := range strings.Lines(string(out)) {
			if !strings.Contains(line, "natless-fleet is not executable") {
				t.Errorf("%s: %s (%v)", name, line, err)
			}
		}
		out, err = exec.Command("systemd-analyze", "security", "--offline=yes", "--no-pager", unit).CombinedOutput()
		m := regexp.MustCompile(`exposure level for \S+: ([0-9.]+)`).FindSubmatch(out)
		if m == nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		if level, err := strconv.ParseFloat(string(m[1]), 64); err != nil || level > most {
			t.Errorf("%s: exposure %s, want %v at most", name, m[1], most)
		}
		text, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"DynamicUser=yes", "CapabilityBoundingSet=\n", "natless-fleet " + name + " --credentials %d", "LoadCredential=fleet:/etc/natless/fleet\n"} {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s has no %q", name, want)
			}
		}
	}
}

// TestFleetPackage: the package of natless-fleet has its program, its units and no others of
// natless's.
func TestFleetPackage(t *testing.T) {
	netns.Require(t, "dpkg")
	bin, dist := t.TempDir(), t.TempDir()
	// What is in it is another test's: compiling it takes minutes.
	if err := os.WriteFile(filepath.Join(bin, "natless-fleet"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("config/deploy/packages/build", bin, dist, "0.0.1", runtime.GOARCH, "deb")
	cmd.Dir = "../.."
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	packages, _ := filepath.Glob(dist + "/*.deb")
	if len(packages) != 1 {
		t.Fatalf("%v\n%s", packages, out)
	}
	list, err := exec.Command("dpkg", "-c", packages[0]).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"./usr/bin/natless-fleet\n", "./etc/natless/fleet/\n", "natless-fleet-agent.service\n", "natless-fleet-relay.service\n",
		"natless-fleet-controller.service\n", "./usr/share/doc/natless-fleet/fleet.md\n"} {
		if !strings.Contains(string(list), want) {
			t.Errorf("there is no %s in\n%s", want, list)
		}
	}
	if strings.Contains(string(list), "natlessd") {
		t.Errorf("it has what is another package's:\n%s", list)
	}
	if !regexp.MustCompile(`drwx------ root/root .* \./etc/natless/fleet/`).Match(list) {
		t.Errorf("credentials are anybody's:\n%s", list)
	}
}
