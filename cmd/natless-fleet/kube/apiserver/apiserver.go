// Package apiserver runs a real kube-apiserver for tests, which have its programs in the
// folder that NATLESS_KUBE names.
package apiserver

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

const patience = 3 * time.Minute

// Tokens are who may ask: the group of admins, the controller's, a host's and a relay's agent.
const tokens = "admin,admin,admin,system:masters\ncontroller,controller,1,natless-controllers\none,natless-host-one,2,\neast,natless-relay-east,3,\n"

// free is a port of loopback that nobody has at the moment.
func free(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// runs starts a program of the folder that NATLESS_KUBE names.
func runs(t *testing.T, dir, name string, args ...string) (kill func()) {
	t.Helper()
	var log bytes.Buffer
	cmd := exec.Command(filepath.Join(os.Getenv("NATLESS_KUBE"), name), args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	t.Cleanup(func() {
		kill()
		if t.Failed() {
			tail := log.Bytes()
			t.Logf("%s:\n%s", name, tail[max(0, len(tail)-4000):])
		}
	})
	return kill
}

// Server is a kube-apiserver that can be away.
type Server struct {
	*rest.Config
	t     *testing.T
	start func() (kill func())
	kill  func()
}

// Serve runs a kube-apiserver with an etcd of its own, and gives it the resources. The
// token admin may do everything.
func Serve(t *testing.T) *rest.Config {
	t.Helper()
	return Start(t).Config
}

// Kill has nobody answer; what there is stays in etcd.
func (s *Server) Kill() { s.kill() }

// Again has it answer again, and returns when it does.
func (s *Server) Again() {
	s.t.Helper()
	s.kill = s.start()
	within(s.t, "the API server", func() error { return call(s.t.Context(), s.Config, "GET", "/apis/natless.io/v1alpha1/ipv4pools", nil) })
}

// Start is Serve of a server that can be away.
func Start(t *testing.T) *Server {
	t.Helper()
	if os.Getenv("NATLESS_KUBE") == "" {
		t.Skip("NATLESS_KUBE: the folder with kube-apiserver and etcd")
	}
	dir := t.TempDir()
	client, peer, port := free(t), free(t), free(t)
	url := func(port int) string { return fmt.Sprint("http://127.0.0.1:", port) }
	runs(t, dir, "etcd", "--name", "one", "--data-dir", dir+"/etcd", "--unsafe-no-fsync", "--log-level", "error",
		"--listen-client-urls", url(client), "--advertise-client-urls", url(client), "--listen-peer-urls", url(peer),
		"--initial-advertise-peer-urls", url(peer), "--initial-cluster", "one="+url(peer))
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("sa.key", pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	write("sa.pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))
	write("tokens.csv", []byte(tokens))
	start := func() func() {
		return runs(t, dir, "kube-apiserver", "--etcd-servers", url(client), "--bind-address", "127.0.0.1", "--secure-port", fmt.Sprint(port),
			"--cert-dir", dir, "--token-auth-file", "tokens.csv", "--authorization-mode", "RBAC", "--service-account-issuer", "https://test",
			"--service-account-key-file", "sa.pub", "--service-account-signing-key-file", "sa.key", "--service-cluster-ip-range", "10.0.0.0/24")
	}
	kill := start()
	c := &rest.Config{Host: fmt.Sprint("https://127.0.0.1:", port), BearerToken: "admin", QPS: -1, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
	apply(t, c)
	return &Server{Config: c, t: t, start: start, kill: kill}
}

// apply gives the server what is in config/deploy/kubernetes/fleet/crds, and waits until it serves that.
func apply(t *testing.T, c *rest.Config) {
	t.Helper()
	within(t, "the API server", func() error { return call(t.Context(), c, "GET", "/version", nil) })
	_, here, _, _ := runtime.Caller(0)
	files, err := filepath.Glob(filepath.Join(filepath.Dir(here), "../../../../config/deploy/kubernetes/fleet/crds/*.yaml"))
	if err != nil || len(files) != 4 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err == nil {
			b, err = yaml.YAMLToJSON(b)
		}
		if err != nil {
			t.Fatal(err)
		}
		within(t, name, func() error {
			return call(t.Context(), c, "POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", b)
		})
	}
	for _, kind := range []string{"ipv4pools", "ipv4blocks", "natlesshosts", "natlessrelays"} {
		within(t, kind, func() error { return call(t.Context(), c, "GET", "/apis/natless.io/v1alpha1/"+kind, nil) })
	}
}

func call(ctx context.Context, c *rest.Config, method, path string, body []byte) error {
	r, err := http.NewRequestWithContext(ctx, method, c.Host+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+c.BearerToken)
	r.Header.Set("Content-Type", "application/json")
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	a, err := client.Do(r)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	if a.StatusCode/100 != 2 && a.StatusCode != http.StatusConflict {
		b, _ := io.ReadAll(io.LimitReader(a.Body, 4096))
		return fmt.Errorf("%s: %s", a.Status, b)
	}
	return nil
}

// Kubeconfig is a file by which a program speaks with the server, as who has a token.
func Kubeconfig(t *testing.T, c *rest.Config, token string) string {
	t.Helper()
	b, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": "c",
		"clusters": []any{map[string]any{"name": "c", "cluster": map[string]any{"server": c.Host, "insecure-skip-tls-verify": true}}},
		"users":    []any{map[string]any{"name": "u", "user": map[string]any{"token": token}}},
		"contexts": []any{map[string]any{"name": "c", "context": map[string]any{"cluster": "c", "user": "u"}}},
	})
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err == nil {
		err = os.WriteFile(path, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func within(t *testing.T, what string, do func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = do(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}
