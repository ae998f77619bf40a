//go:build linux

package fastpath

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/tests/netns"
)

// TestEachLink: who looks at all links meets ones that others are making and taking away,
// and goes on; one that is there all the time is seen each time.
func TestEachLink(t *testing.T) {
	netns.Require(t, netns.Root)
	ns := netns.New(t, "links")
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	attach := func(to ebpf.AttachType) (l link.Link, err error) {
		ns.Do(func() { l, err = link.AttachTCX(link.TCXOptions{Program: p, Attach: to, Interface: 1}) })
		return l, err
	}
	stays, err := attach(ebpf.AttachTCXEgress)
	if errors.Is(err, link.ErrNotSupported) {
		t.Skip("no TCX before Linux 6.6")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer stays.Close()
	info, err := stays.Info()
	if err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if l, err := attach(ebpf.AttachTCXIngress); err == nil {
				l.Close()
			}
		}
	}()
	unfinished := 0
	for range 5000 {
		seen := false
		if err := EachLink(func(it *link.Iterator) { seen = seen || it.ID == info.ID }); err != nil || !seen {
			t.Fatalf("%v; what stays is seen: %v", err, seen)
		}
		once := new(link.Iterator)
		for once.Next() {
		}
		if errors.Is(once.Err(), unix.EAGAIN) {
			unfinished++
		}
		once.Close()
	}
	close(stop)
	<-stopped
	t.Logf("%d of 5000 looks met one that was not finished", unfinished)
}
