package server

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/netns"
)

// askChild makes TestMain a client that asks for health on this socket.
const askChild = "NATLESS_API_ASK_CHILD"

func TestMain(m *testing.M) {
	if socket := os.Getenv(askChild); socket != "" {
		if err := api.NewClient(socket).Health(context.Background()); err != nil {
			var p *api.Problem
			errors.As(err, &p)
			os.Stdout.WriteString(string(p.Code) + " " + p.Detail)
		}
		return
	}
	os.Exit(m.Run())
}

// TestPeers: the kernel says who asks, and the server believes nobody else.
func TestPeers(t *testing.T) {
	netns.Require(t, netns.Root)
	const group, other = 4711, 4712
	g := newRig(t, group)
	// Let everybody reach the socket, so that it is the server that decides.
	for dir := filepath.Dir(g.socket); dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	self := filepath.Join(filepath.Dir(g.socket), "self")
	binary, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(self, binary, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	ask := func(c syscall.Credential) string {
		cmd := exec.Command(self)
		cmd.Env = []string{askChild + "=" + g.socket}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &c}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatal(err, string(out))
		}
		return string(out)
	}
	for _, c := range []struct {
		name       string
		credential syscall.Credential
		want       string
		closed     string // with the permissions that the socket has
	}{
		{"root", syscall.Credential{}, "", ""},
		{"of the group", syscall.Credential{Uid: 65534, Gid: group}, "", ""},
		{"of the group besides", syscall.Credential{Uid: 65534, Gid: 65534, Groups: []uint32{other, group}}, "", ""},
		{"of another group", syscall.Credential{Uid: 65534, Gid: 65534, Groups: []uint32{other}}, "forbidden user 65534", "unavailable"},
		{"of root's group", syscall.Credential{Uid: 65534, Gid: 0}, "forbidden", "unavailable"},
	} {
		if got := ask(c.credential); !strings.HasPrefix(got, c.closed) || c.closed == "" && got != "" {
			t.Errorf("%s: %q, want %q", c.name, got, c.closed)
		}
		if err := os.Chmod(g.socket, 0o666); err != nil {
			t.Fatal(err)
		}
		if got := ask(c.credential); !strings.HasPrefix(got, c.want) || c.want == "" && got != "" {
			t.Errorf("%s, when the socket lets everybody in: %q, want %q", c.name, got, c.want)
		}
		if err := os.Chmod(g.socket, 0o660); err != nil {
			t.Fatal(err)
		}
	}
}

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "n.sock")
	l, err := Listen(path, os.Getgid())
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o660 || info.Mode()&os.ModeSocket == 0 {
		t.Errorf("%v, %v", info, err)
	}
	if _, err := Listen(path, os.Getgid()); err == nil || !strings.Contains(err.Error(), "is natlessd running already?") {
		t.Errorf("where one listens already: %v", err)
	}
	// A dead one's socket stays behind.
	l.(*listener).Listener.Close()
	if _, err := net.Dial("unix", path); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatal(err)
	}
	next, err := Listen(path, os.Getgid())
	if err != nil {
		t.Fatal(err)
	}
	l.Close() // must not take the other's away
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	next.Close()
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Close: %v", err)
	}
}

// TestClientIsLight: the CNI plugin imports it and starts for each container.
func TestClientIsLight(t *testing.T) {
	light := []string{"github.com/natless/natless/config/api", "github.com/natless/natless/translator/ports"}
	out, err := exec.Command("go", "list", "-deps", "github.com/natless/natless/config/api").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range strings.Fields(string(out)) {
		if first, _, _ := strings.Cut(p, "/"); strings.Contains(first, ".") && !slices.Contains(light, p) {
			t.Errorf("config/api imports %s", p)
		}
	}
}
