//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// machines are those of vagrant up.
type machines struct {
	sshConfig string
	dir       string // for the configuration, and ssh's connections
}

// newMachines asks vagrant how to reach the machines.
func newMachines(ctx context.Context, dir string) (*machines, error) {
	cmd := exec.CommandContext(ctx, "vagrant", "ssh-config")
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("vagrant ssh-config in %s: %w: vagrant up comes first", dir, err)
	}
	m := &machines{}
	if m.dir, err = os.MkdirTemp("", "natless-ssh-"); err != nil {
		return nil, err
	}
	m.sshConfig = filepath.Join(m.dir, "config")
	// One connection for each machine; a machine that reboots is noticed.
	more := fmt.Sprintf("\nHost *\n  ControlMaster auto\n  ControlPath %s/%%n\n  ControlPersist 10m\n"+
		"  ServerAliveInterval 5\n  ServerAliveCountMax 6\n  ConnectTimeout 10\n", m.dir)
	return m, os.WriteFile(m.sshConfig, append(out, more...), 0o600)
}

func (m *machines) command(ctx context.Context, machine, script string) *exec.Cmd {
	quoted := "'" + strings.ReplaceAll(script, "'", `'\''`) + "'"
	return exec.CommandContext(ctx, "ssh", "-F", m.sshConfig, machine, "sudo bash -euo pipefail -c "+quoted)
}

func (m *machines) file(name string) string { return "/vagrant/build/" + name }

func (m *machines) service(ctx context.Context, verb string) error {
	if verb == "kill" {
		verb = "kill --signal=KILL"
	}
	_, err := sh(ctx, m, host, "systemctl "+verb+" natlessd")
	return err
}

func (m *machines) install(ctx context.Context, deb string) error {
	_, err := sh(ctx, m, host, m.script()+" install "+m.file(deb))
	return err
}

func (m *machines) purge(ctx context.Context) error {
	_, err := sh(ctx, m, host, m.script()+" purge")
	return err
}

func (m *machines) script() string { return "/vagrant/provision.sh" }

func (m *machines) systemd() bool { return true }

func (m *machines) reboot(ctx context.Context) error {
	const bootID = "cat /proc/sys/kernel/random/boot_id"
	before, err := sh(ctx, m, host, bootID)
	if err != nil {
		return err
	}
	m.command(ctx, host, "systemctl reboot").Run() // which ends the connection
	exec.CommandContext(ctx, "ssh", "-F", m.sshConfig, "-O", "exit", host).Run()
	for deadline := time.Now().Add(5 * time.Minute); ; time.Sleep(2 * time.Second) {
		attempt, cancel := context.WithTimeout(ctx, 20*time.Second)
		after, err := sh(attempt, m, host, bootID)
		cancel()
		if err == nil && after != before {
			return nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("the host does not come back: %w", err)
		}
	}
}

func (m *machines) close() {
	for _, machine := range []string{host, server, client} {
		exec.Command("ssh", "-F", m.sshConfig, "-O", "exit", machine).Run()
	}
	os.RemoveAll(m.dir)
}
