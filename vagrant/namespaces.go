//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/natless/natless/tests/systemd"
)

// namespaces plays the machines: each is a network namespace. The host has its
// own view of the file system too, whose changes go to a disk in memory: the
// package is installed, upgraded and purged there for real, and nothing of it
// reaches the machine that this runs on.
type namespaces struct {
	build   string // folder of what was built
	disk    *holder
	scratch string // where the disk is mounted, for its holder
	holders map[string]*holder
	manager *manager
}

// holder is a process that does nothing but keep namespaces alive.
type holder struct {
	cmd   *exec.Cmd
	stdin io.Closer
}

func hold(args ...string) (*holder, error) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if line, _ := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		cmd.Process.Kill()
		return nil, fmt.Errorf("%s: %w", strings.Join(args, " "), cmd.Wait())
	}
	return &holder{cmd: cmd, stdin: stdin}, nil
}

func (h *holder) pid() int { return h.cmd.Process.Pid }

func (h *holder) end() {
	h.stdin.Close()
	h.cmd.Process.Kill()
	h.cmd.Wait()
}

const holdOn = "echo ready; exec sleep infinity"

// boot makes the host's view of the files of the disk: what a reboot leaves.
const boot = `set -e
for d in etc usr var opt; do
	mkdir -p "$0/$d.new" "$0/$d.work"
	mount -t overlay overlay -o "lowerdir=/$d,upperdir=$0/$d.new,workdir=$0/$d.work" "/$d"
done
mount -t tmpfs tmpfs /run
mount -t sysfs sysfs /sys
mount -t bpf bpf /sys/fs/bpf
ip link set lo up
sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
` + holdOn

// cables joins the host, the server and the client (the three arguments are
// their processes).
const cables = `ip link add eth1 netns %[1]d type veth peer name eth1 netns %[2]d
ip link add eth2 netns %[1]d type veth peer name eth1 netns %[3]d
nsenter --net --target %[1]d ip addr add 192.168.56.10/24 dev eth1
nsenter --net --target %[1]d ip addr add 192.168.57.10/24 dev eth2
nsenter --net --target %[1]d ip link set eth1 up
nsenter --net --target %[1]d ip link set eth2 up
nsenter --net --target %[2]d ip addr add 192.168.56.20/24 dev eth1
nsenter --net --target %[2]d ip link set eth1 up
nsenter --net --target %[3]d ip addr add 192.168.57.20/24 dev eth1
nsenter --net --target %[3]d ip link set eth1 up
nsenter --net --target %[3]d ip route add 192.168.56.0/24 via 192.168.57.10`

func newNamespaces(_ context.Context, dir string) (*namespaces, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("namespaces need root")
	}
	n := &namespaces{build: filepath.Join(dir, "build"), holders: make(map[string]*holder)}
	var err error
	if n.scratch, err = os.MkdirTemp("", "natless-lab-"); err != nil {
		return nil, err
	}
	notify, err := systemd.Listen(filepath.Join(n.scratch, "notify"))
	if err != nil {
		return nil, err
	}
	n.manager = &manager{Manager: notify, lab: n, log: os.Stderr}
	if n.disk, err = hold("unshare", "--mount", "sh", "-ec", `mkdir "$0/disk"; mount -t tmpfs tmpfs "$0/disk"; `+holdOn,
		n.scratch); err != nil {
		n.close()
		return nil, err
	}
	for _, machine := range []string{server, client} {
		if n.holders[machine], err = hold("unshare", "--net", "sh", "-ec", "ip link set lo up; "+holdOn); err != nil {
			n.close()
			return nil, err
		}
	}
	err = n.boot()
	if err == nil { // what this machine has of natless itself, and its word that dpkg is to read all manual pages each time
		_, err = sh(context.Background(), n, host, "rm -rf /etc/natless /var/lib/natless /var/lib/man-db/auto-update")
	}
	if err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

// boot makes the host and its cables.
func (n *namespaces) boot() (err error) {
	n.holders[host], err = hold("nsenter", "--mount", "--target", fmt.Sprint(n.disk.pid()),
		"unshare", "--mount", "--net", "sh", "-c", boot, filepath.Join(n.scratch, "disk"))
	if err != nil {
		return err
	}
	h, s, c := n.holders[host].pid(), n.holders[server].pid(), n.holders[client].pid()
	lines := fmt.Sprintf(cables, h, s, c)
	for line := range strings.Lines(lines) {
		words := strings.Fields(line)
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", strings.TrimSpace(line), err, out)
		}
	}
	_, err = sh(context.Background(), n, host, "[ ! -e /etc/sysctl.d/lab.conf ] || sysctl -qp /etc/sysctl.d/lab.conf")
	return err
}

func (n *namespaces) command(ctx context.Context, machine, script string) *exec.Cmd {
	args := []string{"--net", "--target", fmt.Sprint(n.holders[machine].pid())}
	if machine == host {
		args = append(args, "--mount")
	}
	cmd := exec.CommandContext(ctx, "nsenter", append(args, "bash", "-euo", "pipefail", "-c", script)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

func (n *namespaces) file(name string) string { return filepath.Join(n.build, name) }

func (n *namespaces) systemd() bool { return false }

func (n *namespaces) service(ctx context.Context, verb string) error {
	return n.manager.do(ctx, verb)
}

// install does what a package's scripts ask systemd for.
func (n *namespaces) install(ctx context.Context, deb string) error {
	if _, err := sh(ctx, n, host, n.script()+" install "+n.file(deb)); err != nil {
		return err
	}
	return n.manager.do(ctx, "restart")
}

func (n *namespaces) purge(ctx context.Context) error {
	if err := n.manager.do(ctx, "stop"); err != nil {
		return err
	}
	_, err := sh(ctx, n, host, n.script()+" purge")
	return err
}

func (n *namespaces) script() string {
	return "NATLESS_BUILD=" + n.build + " " + filepath.Join(filepath.Dir(n.build), "provision.sh")
}

// reboot cuts the power: nobody is told. What is left is the disk.
func (n *namespaces) reboot(ctx context.Context) error {
	n.manager.powerOff()
	n.holders[host].end()
	for _, machine := range []string{server, client} { // the kernel would, when it comes to it
		_, _ = sh(ctx, n, machine, "ip link del eth1")
	}
	if err := n.boot(); err != nil {
		return err
	}
	return n.manager.do(ctx, "start")
}

func (n *namespaces) close() {
	n.manager.powerOff()
	n.manager.Close()
	for _, h := range n.holders {
		if h != nil {
			h.end()
		}
	}
	if n.disk != nil {
		n.disk.end()
	}
	os.RemoveAll(n.scratch)
}
