package tun

import (
	"errors"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/natless/natless/tests/netns"
)

func TestOpenSetsTheDeviceUp(t *testing.T) {
	ns := netns.New(t, "x")
	d := mustOpen(t, ns, Config{Name: "natless0"})
	if got := ns.IP("-d link show dev natless0"); !strings.Contains(got, "vnet_hdr on") {
		t.Errorf("kernel says %s", got)
	}
	netns.Require(t, "ethtool")
	features := ns.Run("ethtool", "-k", "natless0")
	for feature, want := range map[string]bool{
		"tx-tcp-segmentation": true, "tx-tcp6-segmentation": true, "tx-tcp-ecn-segmentation": true,
		"tx-udp-segmentation": d.Offloads().USO,
	} {
		if strings.Contains(features, feature+": on") != want {
			t.Errorf("%s is not %v: %s", feature, want, features)
		}
	}
	if _, err := d.LinkStats(); err != nil {
		t.Error(err)
	}
	d.Close()
	if out, err := ns.Command("ip", "link", "show", "natless0").CombinedOutput(); err == nil {
		t.Errorf("device is still there: %s", out)
	}
}

func TestBusyDevice(t *testing.T) {
	for _, queues := range []int{1, 2} {
		ns := netns.New(t, "x")
		first := mustOpen(t, ns, Config{Name: "natless0", Queues: queues})
		for _, second := range []int{1, 2} {
			if _, err := open(t, ns, Config{Name: "natless0", Queues: second}); !errors.Is(err, ErrBusy) {
				t.Errorf("%d queues beside %d: %v", second, queues, err)
			}
		}
		time.AfterFunc(300*time.Millisecond, func() { first.Close() })
		mustOpen(t, ns, Config{Name: "natless0", Queues: queues}) // as after a kill: it waits for the old descriptors
	}
}

// TestPatience: a predecessor may take longer to die than a device that is in use
// is worth waiting for.
func TestPatience(t *testing.T) {
	t.Parallel()
	ns := netns.New(t, "x")
	first := mustOpen(t, ns, Config{Name: "natless0"})
	time.AfterFunc(busyFor+300*time.Millisecond, func() { first.Close() })
	mustOpen(t, ns, Config{Name: "natless0", Patience: time.Minute})
}

func TestAdoptLeftover(t *testing.T) {
	for _, left := range []string{"", " multi_queue"} {
		for _, queues := range []int{1, 2} {
			ns := netns.New(t, "x")
			ns.IP("tuntap add natless0 mode tun" + left)
			d := mustOpen(t, ns, Config{Name: "natless0", Queues: queues})
			up(ns, "natless0")
			stop := reflect(d)
			transfer(t, ns, "2001:db8::2", 4<<20)
			if seen, err := stop(); seen == 0 || err != nil {
				t.Errorf("%d superpackets, %v", seen, err)
			}
		}
	}
}

func TestForeignDeviceStays(t *testing.T) {
	ns := netns.New(t, "x")
	ns.IP("link add natless0 type veth peer name other")
	if _, err := open(t, ns, Config{Name: "natless0"}); err == nil || !strings.Contains(err.Error(), "not a TUN device") {
		t.Errorf("got %v", err)
	}
	ns.IP("link show natless0")
}

func TestMissing(t *testing.T) {
	var missing *MissingError
	t.Run("CAP_NET_ADMIN", func(t *testing.T) {
		var err error
		netns.New(t, "x").Do(func() { // capabilities belong to the thread, which is thrown away
			header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			var sets [2]unix.CapUserData
			if err = unix.Capget(&header, &sets[0]); err != nil {
				return
			}
			sets[0].Effective &^= 1 << unix.CAP_NET_ADMIN
			if err = unix.Capset(&header, &sets[0]); err == nil {
				_, err = Open(Config{Name: "natless0"})
			}
		})
		if !errors.As(err, &missing) || missing.What != t.Name()[len("TestMissing/"):] {
			t.Errorf("got %v", err)
		}
	})
	t.Run("dev net tun", func(t *testing.T) {
		var err error
		netns.New(t, "x").Do(func() {
			if err = unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
				return
			}
			if err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return
			}
			if err = unix.Mount("none", "/dev/net", "tmpfs", 0, ""); err == nil {
				_, err = Open(Config{Name: "natless0"})
			}
		})
		if !errors.As(err, &missing) || missing.What != "/dev/net/tun" {
			t.Errorf("got %v", err)
		}
	})
	t.Run("IPv6", func(t *testing.T) {
		ns := netns.New(t, "x")
		ns.Run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
		if _, err := open(t, ns, Config{Name: "natless0"}); !errors.As(err, &missing) || missing.What != "IPv6 on the device" {
			t.Errorf("got %v", err)
		}
	})
}

// A container's system call filter that knows no io_uring is not in the way.
func TestFallsBackToPlain(t *testing.T) {
	ns := netns.New(t, "x")
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // the system call's number
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_IO_URING_SETUP, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	var d *Device
	var err, refused error
	ns.Do(func() { // the filter is the thread's alone, and it is thrown away
		if _, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&program))); errno != 0 {
			err = errno
			return
		}
		if _, refused = Open(Config{Name: "natless1", IO: Uring}); refused == nil {
			return
		}
		d, err = Open(Config{Name: "natless0"})
	})
	if err != nil || !errors.Is(refused, unix.EPERM) {
		t.Fatalf("%v; and where io_uring is insisted on: %v", err, refused)
	}
	defer d.Close()
	if d.IO() != Plain {
		t.Errorf("got %q", d.IO())
	}
}
