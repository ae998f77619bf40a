package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCNI installs, twice, waits for a network that comes late, and follows one
// that is written anew, and a program that somebody else has removed.
func TestCNI(t *testing.T) {
	conf, bin, plugin := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "natless-cni")
	list := filepath.Join(conf, "10-pods.conflist")
	if err := os.WriteFile(plugin, []byte("program"), 0o755); err != nil {
		t.Fatal(err)
	}
	words := func(words ...string) []string {
		return append(words, "--conf-dir", conf, "--bin-dir", bin)
	}
	run := func(ctx context.Context, out io.Writer, args []string) error {
		root := newRoot(&options{})
		root.SetOut(out)
		root.SetArgs(args)
		return root.ExecuteContext(ctx)
	}
	command := func(ctx context.Context, args []string) (string, error) {
		var out bytes.Buffer
		err := run(ctx, &out, args)
		return strings.ReplaceAll(out.String(), conf, "CONF"), err
	}
	install := words("cni", "install", "--plugin", plugin, "--pool", "web", "--ipv4", "inside", "--annotations", "ports,publish")
	if _, err := command(t.Context(), install); err == nil || !strings.Contains(err.Error(), "no .conflist") {
		t.Errorf("without a network: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	out, in := io.Pipe()
	go func() { in.CloseWithError(run(ctx, in, append(install, "--watch"))) }()
	said := bufio.NewScanner(out)
	says := func(want string) {
		t.Helper()
		if said.Scan(); strings.ReplaceAll(said.Text(), conf, "CONF") != want {
			t.Errorf("said %q, %v, want %q", said.Text(), said.Err(), want)
		}
	}
	says("waiting for a *.conflist in CONF")
	chained := func() bool {
		text, _ := os.ReadFile(list)
		return strings.Contains(string(text), `"pool": "web"`) && strings.Contains(string(text), `"ipv4": "inside"`) &&
			strings.Contains(string(text), `"io.kubernetes.cri.pod-annotations": true`) && strings.Contains(string(text), `"publish"`)
	}
	for range 2 { // late, and anew
		if err := os.WriteFile(list, []byte(`{"plugins": [{"type": "ptp"}]}`), 0o600); err != nil {
			t.Fatal(err)
		}
		says("CONF/10-pods.conflist: natless-cni is chained")
		if !chained() {
			t.Error("is not chained")
		}
	}
	single := filepath.Join(conf, "05-single.conf")
	if err := os.WriteFile(single, []byte(`{"type": "ptp"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	says("CONF/05-single.conf stands before CONF/10-pods.conflist and is no list: containerd and CRI-O take it, and containers have no IPv4: remove it, or make a .conflist of it")
	if err := os.Rename(single, filepath.Join(conf, "99-loopback.conf")); err != nil { // of which nothing is said
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(bin, "natless-cni")); err != nil { // as a network plugin's own installer may
		t.Fatal(err)
	}
	says(filepath.Join(bin, "natless-cni") + " was gone, and is installed again")
	if _, err := command(t.Context(), words("cni", "install", "--plugin", plugin, "--ipv4", "both")); err == nil || !strings.Contains(err.Error(), "none of inside, prefix, none") {
		t.Errorf("no such way: %v", err)
	}
	if _, err := command(t.Context(), words("cni", "install", "--plugin", plugin, "--annotations", "ports,host")); err == nil || !strings.Contains(err.Error(), "host: is none of ipv4") {
		t.Errorf("no such annotation: %v", err)
	}
	cancel()
	if said.Scan() || said.Err() != nil {
		t.Errorf("at the end: %q, %v", said.Text(), said.Err())
	}
	if got, err := command(t.Context(), install); err != nil || got != "CONF/10-pods.conflist: natless-cni was there already\n" {
		t.Errorf("again: %q %v", got, err)
	}
	if got, err := command(t.Context(), words("cni", "uninstall")); err != nil || !strings.Contains(got, "is taken out") || chained() {
		t.Errorf("uninstall: %q %v", got, err)
	}
	if _, err := command(t.Context(), []string{"cni", "install", "--conf-dir", conf, "--bin-dir", filepath.Join(bin, "none")}); err == nil ||
		!strings.Contains(err.Error(), "natless-cni is not there: looked in") || !strings.Contains(err.Error(), "/usr/lib/cni, /usr/libexec/cni and in PATH; name it with --plugin") {
		t.Errorf("where nobody has put the plugin: %v", err)
	}
	t.Setenv("PATH", filepath.Dir(plugin))
	if path, err := pluginProgram(); err != nil || path != plugin {
		t.Errorf("in PATH: %q %v", path, err)
	}
	if _, err := command(t.Context(), []string{"cni", "install", "--conf-dir", conf, "--bin-dir", filepath.Join(bin, "none")}); err == nil ||
		!strings.Contains(err.Error(), "no such directory: is a container engine installed") {
		t.Errorf("without a directory: %v", err)
	}
	if text, err := os.ReadFile(filepath.Join(bin, "natless-cni")); err != nil || string(text) != "program" {
		t.Errorf("the plugin: %q %v", text, err)
	}
}

// TestCNIWaits: nothing is installed before natlessd has been ready, but on a host that
// has had the plugin: there containers wait for natlessd from the start.
func TestCNIWaits(t *testing.T) {
	conf, bin, plugin := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "natless-cni")
	list, socket := filepath.Join(conf, "10-pods.conflist"), filepath.Join(t.TempDir(), "natless.sock")
	const unchained = `{"plugins": [{"type": "ptp"}]}`
	for path, text := range map[string]string{plugin: "program", list: unchained} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	install := func(ctx context.Context) (*bufio.Scanner, chan error) {
		root, ended := newRoot(&options{}), make(chan error, 1)
		out, in := io.Pipe()
		root.SetOut(in)
		root.SetArgs([]string{"cni", "install", "--wait", "--plugin", plugin, "--conf-dir", conf, "--bin-dir", bin, "--socket", socket})
		go func() { err := root.ExecuteContext(ctx); in.Close(); ended <- err }()
		return bufio.NewScanner(out), ended
	}
	ctx, cancel := context.WithCancel(t.Context())
	said, ended := install(ctx)
	if !said.Scan() || !strings.HasPrefix(said.Text(), "waiting for natlessd") {
		t.Errorf("said %q", said.Text())
	}
	for range 2 { // ended while it waits, and started again: it waits again
		cancel()
		if err := <-ended; err == nil {
			t.Error("was installed without natlessd")
		}
		if text, err := os.ReadFile(list); err != nil || string(text) != unchained {
			t.Errorf("the network is not as it was: %v\n%s", err, text)
		}
		if left, err := os.ReadDir(bin); err != nil || len(left) > 0 {
			t.Errorf("installed %v %v", left, err)
		}
		ctx, cancel = context.WithCancel(t.Context())
		defer cancel()
		if said, ended = install(ctx); !said.Scan() || !strings.HasPrefix(said.Text(), "waiting for natlessd") {
			t.Errorf("said %q", said.Text())
		}
	}
	listen, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"ready":true}`) })}
	go server.Serve(listen)
	if !said.Scan() || !strings.HasSuffix(said.Text(), "natless-cni is chained") {
		t.Errorf("said %q", said.Text())
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	server.Close()
	if err := os.WriteFile(list, []byte(unchained), 0o600); err != nil {
		t.Fatal(err)
	}
	if said, ended = install(t.Context()); !said.Scan() || !strings.HasSuffix(said.Text(), "natless-cni is chained") {
		t.Errorf("the second time: %q", said.Text())
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestCNITakesItsOwn: out of every list that has the plugin, and nothing else.
func TestCNITakesItsOwn(t *testing.T) {
	conf := t.TempDir()
	chained := `{"plugins": [{"type": "ptp"}, {"type": "natless-cni"}]}`
	files := map[string]string{"05-new.conflist": `{"plugins": [ {"type":"bridge"} ]}`, "10-pods.conflist": chained, "20-more.conflist": chained,
		"30-single.conf": `{"type": "natless-cni"}`, "40-broken.conflist": `{"plugins": [{"type": "natless-cni"}`}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(conf, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	root := newRoot(&options{})
	root.SetOut(io.Discard)
	root.SetArgs([]string{"cni", "uninstall", "--conf-dir", conf})
	if err := root.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, before := range files {
		text, err := os.ReadFile(filepath.Join(conf, name))
		if ours := before == chained; err != nil || !ours && string(text) != before || ours && strings.Contains(string(text), "natless") {
			t.Errorf("%s: %v\n%s", name, err, text)
		}
	}
}
