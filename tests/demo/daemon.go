//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/natless/natless/tests/systemd"
)

const configuration = `
prefix: 2001:db8:64::/96
addresses: {ipv4: 198.51.100.1, ipv6: "2001:db8::1"}
mappings:
  - {ipv6: "2001:db8:6::2", ipv4: 198.51.100.2}
api: {socket: %[1]s/natless.sock}
registry: {path: %[1]s/registry.db}
`

// natlessd runs in the host's namespace.
type natlessd struct {
	host   *space
	cmd    *exec.Cmd
	log    bytes.Buffer // to be read when it has ended
	exited chan error
}

// startDaemon starts natlessd and waits until it says that it is ready.
func startDaemon(ctx context.Context, host *space, program, dir string) (*natlessd, error) {
	config, notify := filepath.Join(dir, "natless.yaml"), filepath.Join(dir, "notify")
	if err := os.WriteFile(config, fmt.Appendf(nil, configuration, dir), 0o600); err != nil {
		return nil, err
	}
	manager, err := systemd.Listen(notify)
	if err != nil {
		return nil, err
	}
	d := &natlessd{host: host, exited: make(chan error, 1)}
	// Not ctx: it is asked to end, and removes what it made.
	d.cmd = host.command(context.WithoutCancel(ctx), program, "--config", config)
	files, env := manager.Start()
	d.cmd.Env, d.cmd.ExtraFiles = append(os.Environ(), env...), files
	d.cmd.Stdout, d.cmd.Stderr = &d.log, &d.log
	if err := d.cmd.Start(); err != nil {
		manager.Close()
		return nil, err
	}
	go func() {
		err := d.cmd.Wait()
		manager.Close() // and what it keeps
		d.exited <- err
	}()
	select {
	case <-manager.Ready():
		return d, nil
	case err := <-d.exited:
		return nil, fmt.Errorf("natlessd ended and was not ready: %v\n%s", err, d.log.Bytes())
	case <-ctx.Done():
	case <-time.After(20 * time.Second):
	}
	d.cmd.Process.Kill()
	<-d.exited
	return nil, fmt.Errorf("natlessd did not become ready:\n%s", d.log.Bytes())
}

// stop ends natlessd and looks whether it has removed all it made.
func (d *natlessd) stop(ctx context.Context) error {
	d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-d.exited:
		if err != nil {
			return fmt.Errorf("natlessd: %w\n%s", err, d.log.Bytes())
		}
	case <-time.After(5 * time.Second):
		d.cmd.Process.Kill()
		<-d.exited
		return fmt.Errorf("natlessd does not end:\n%s", d.log.Bytes())
	}
	if ctx.Err() != nil {
		return nil
	}
	left, err := d.host.run(ctx, "ip -o link show type tun")
	if err == nil && strings.TrimSpace(left) != "" {
		err = fmt.Errorf("natlessd left its device behind: %s", left)
	}
	return err
}
