package server

import (
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestProfilesOff(t *testing.T) {
	g := newRig(t, 0)
	status, body := g.ask("GET", "/v1/pprof/heap", "")
	if status != http.StatusNotFound || !strings.Contains(body, "profiles are off: set api.pprof to true") {
		t.Errorf("%d %s", status, body)
	}
}

// TestProfiles has each profile read by the program that is to read it.
func TestProfiles(t *testing.T) {
	g := newRig(t, 0)
	g.server.Profiles = true
	for _, name := range profiles {
		target := "/v1/pprof/" + name
		if name == "cpu" {
			target += "?seconds=1"
		}
		resp, err := g.http.Get("http://natless" + target)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %d %s %v", name, resp.StatusCode, body, err)
		}
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, body, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("go", "tool", "pprof", "-raw", path).Output()
		if err != nil || !strings.Contains(string(out), "Samples:") {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
	for target, want := range map[string]string{
		"/v1/pprof/none":           `no profile \"none\"; there are cpu, heap,`,
		"/v1/pprof/cpu?seconds=51": "must be a number from 1 to 50",
		"/v1/pprof/heap?seconds=1": "is for cpu alone",
	} {
		if status, body := g.ask("GET", target, ""); status/100 != 4 || !strings.Contains(strings.ReplaceAll(body, `\\"`, `\"`), want) {
			t.Errorf("%s: %d %s", target, status, body)
		}
	}
}

// TestProfileTwice asks for two profiles of the CPU at a time: one is refused.
func TestProfileTwice(t *testing.T) {
	g := newRig(t, 0)
	g.server.Profiles = true
	answers := make(chan *http.Response, 2)
	for range cap(answers) {
		go func() {
			resp, err := g.http.Get("http://natless/v1/pprof/cpu?seconds=2")
			if err != nil {
				t.Error(err)
				resp = &http.Response{Body: http.NoBody}
			}
			answers <- resp
		}()
	}
	refused := <-answers
	body, _ := io.ReadAll(refused.Body)
	refused.Body.Close()
	taken := <-answers
	taken.Body.Close()
	if refused.StatusCode != http.StatusConflict || !strings.Contains(string(body), "another profile") || taken.StatusCode != http.StatusOK {
		t.Errorf("%d %s, and %d", refused.StatusCode, body, taken.StatusCode)
	}
}
