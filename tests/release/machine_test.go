//go:build linux

package release

import (
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/tests/output"
)

// debian is what the machines have besides a minimal Debian: rpm and dnf for packages of
// other distributions, and OpenRC and busybox's shell, which Alpine's has.
const debian = "init-system-helpers,passwd,systemd,systemd-sysv,dbus,iproute2,nftables,procps,rpm,dnf,openrc,busybox-static"

// bootstrap makes a small Debian once, which later runs find there.
var bootstrap = sync.OnceValues(func() (string, error) {
	dir, err := filepath.Abs(fmt.Sprintf("%s/.test-output/roots/bookworm-%08x", root, crc32.ChecksumIEEE([]byte(debian))))
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(dir + "/etc/debian_version"); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	half := dir + ".half"
	os.RemoveAll(half)
	out, err := exec.Command("debootstrap", "--variant=minbase", "--include="+debian, "bookworm", half, "http://deb.debian.org/debian").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("debootstrap: %w\n%s", err, out)
	}
	return dir, os.Rename(half, dir)
})

// machine is a Debian of its own: a layer over the one that bootstrap made, which may run
// systemd as its first process.
type machine struct {
	t      *testing.T
	dir    string
	init   *exec.Cmd // nil: there is no systemd
	pid    string    // its first process
	cgroup string
	log    output.Buffer
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	netns.Require(t, netns.Root, "debootstrap", "chroot", "unshare", "nsenter")
	lower, err := bootstrap()
	if err != nil {
		t.Fatal(err)
	}
	base := t.TempDir()
	mount(t, "tmpfs", base, "tmpfs", "")
	m := &machine{t: t, dir: filepath.Join(base, "root")}
	for _, d := range []string{"root", "writes", "work"} {
		if err := os.Mkdir(filepath.Join(base, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mount(t, "overlay", m.dir, "overlay", "lowerdir="+lower+",upperdir="+base+"/writes,workdir="+base+"/work")
	return m
}

func mount(t *testing.T, source, target, kind, options string) {
	t.Helper()
	if err := syscall.Mount(source, target, kind, 0, options); err != nil {
		t.Fatalf("mount %s on %s: %v", source, target, err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(target, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", target, err)
		}
	})
}

// mounts is what a machine's first process finds, and how it begins.
const mounts = `set -e
cd "$1"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount -t tmpfs tmpfs dev
mount -t bpf bpf sys/fs/bpf
for n in null zero full random urandom tty net/tun; do
	mkdir -p "$(dirname dev/$n)"
	touch dev/$n
	mount --bind /dev/$n dev/$n
done
mkdir -p dev/shm dev/pts
mount -t devpts devpts dev/pts
ln -s pts/ptmx dev/ptmx
if [ "$2" = bash ]; then
	exec chroot . bash -c 'while :; do sleep 3600; done' # as init does, it takes leave of the dead
fi
mount -t cgroup2 cgroup2 sys/fs/cgroup
exec chroot . env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --log-target=console --show-status=no
`

// boot starts the machine in namespaces of its own: with systemd, or with nothing that
// manages services.
func (m *machine) boot(systemd bool) {
	m.t.Helper()
	first := "bash"
	if systemd {
		first = "systemd"
	}
	m.init = exec.Command("unshare", "--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", "--fork", "--kill-child", "bash", "-c", mounts, "bash", m.dir, first)
	m.init.Stdout, m.init.Stderr = &m.log, &m.log
	if systemd {
		m.own()
	}
	if err := m.init.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(m.off)
	m.until("the machine's first process is there", func() bool {
		out, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", m.init.Process.Pid, m.init.Process.Pid))
		m.pid = strings.TrimSpace(string(out))
		if m.pid == "" {
			return false
		}
		comm, _ := os.ReadFile("/proc/" + m.pid + "/comm")
		at, _ := os.Readlink("/proc/" + m.pid + "/root")
		return strings.TrimSpace(string(comm)) == first && at == m.dir
	})
	if systemd {
		m.until("systemd runs", func() bool {
			out, _ := m.command("systemctl", "is-system-running").CombinedOutput()
			return strings.TrimSpace(string(out)) == "running"
		})
	}
	m.run("ip", "link", "set", "lo", "up")
}

// own gives the machine a cgroup of its own to begin in: systemd's root of them.
func (m *machine) own() {
	m.t.Helper()
	at := "/sys/fs/cgroup"
	if _, err := os.Stat(at + "/cgroup.procs"); err != nil {
		at += "/unified" // beside those of version 1
	}
	m.cgroup = fmt.Sprintf("%s/release-%d", at, os.Getpid())
	if err := os.MkdirAll(m.cgroup, 0o755); err != nil {
		m.t.Fatal(err)
	}
	f, err := os.Open(m.cgroup)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { f.Close() })
	m.init.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(f.Fd())}
}

func (m *machine) off() {
	m.init.Process.Kill() // and --kill-child the rest
	m.init.Wait()
	if m.t.Failed() {
		m.t.Logf("the machine says:\n%s", m.log.String())
	}
	if m.cgroup == "" {
		return
	}
	m.until("the machine's cgroups are empty", func() bool {
		exec.Command("find", m.cgroup, "-depth", "-type", "d", "-exec", "rmdir", "{}", "+").Run()
		_, err := os.Stat(m.cgroup)
		return err != nil
	})
}

func (m *machine) until(what string, is func() bool) {
	m.t.Helper()
	for end := time.Now().Add(2 * time.Minute); !is(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			out, _ := m.command("journalctl", "--boot", "--no-pager", "--unit", "natless*").CombinedOutput()
			m.t.Logf("%s", out)
			m.t.Fatalf("not within two minutes: %s\n%s", what, m.log.String())
		}
	}
}

func (m *machine) command(name string, args ...string) *exec.Cmd {
	c := exec.Command("nsenter", append([]string{"--target", m.pid, "--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", "--root", "--wd", name}, args...)...)
	c.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C"}
	return c
}

// run runs a program in the machine, which must succeed.
func (m *machine) run(name string, args ...string) string {
	m.t.Helper()
	out, err := m.command(name, args...).CombinedOutput()
	if err != nil {
		m.t.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// put copies a file into the machine and gives its path there.
func (m *machine) put(path string) string {
	m.t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		m.t.Fatal(err)
	}
	m.write("/srv/"+filepath.Base(path), string(data))
	return "/srv/" + filepath.Base(path)
}

func (m *machine) write(path, text string) {
	m.t.Helper()
	path = filepath.Join(m.dir, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) has(path string) bool {
	_, err := os.Lstat(filepath.Join(m.dir, path))
	return err == nil
}
