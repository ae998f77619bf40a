//go:build linux

// Package gro has the kernel put small UDP packets together into superpackets
// where they come in (generic receive offload with rx-udp-gro-forwarding), on
// the interfaces that are named, as they come and go. A superpacket costs the
// device and the translation once. What packets mean may not enter here.
package gro

import (
	"context"
	"fmt"
	"log/slog"
	"path"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/dump"
)

// features are what is switched on, in the kernel's words (ethtool -k).
var features = []string{"rx-gro", "rx-udp-gro-forwarding"}

// Config says where.
type Config struct {
	Interfaces []string // names, or patterns of names (path.Match)
	Log        *slog.Logger
}

// Task is a task: Run it once.
type Task struct {
	config Config
	ready  chan struct{}
	was    map[int]map[string]bool // by interface index: what Run changed, and its value before
}

// New makes a task; Run does what is to be done.
func New(c Config) *Task {
	return &Task{config: c, ready: make(chan struct{}), was: make(map[int]map[string]bool)}
}

// Ready is closed when the interfaces that are there have been seen to.
func (t *Task) Ready() <-chan struct{} { return t.ready }

// Run switches the features on, on new interfaces too, until ctx is done, and
// puts back what it changed. An interface that cannot do it is told in the log.
func (t *Task) Run(ctx context.Context) error {
	if len(t.config.Interfaces) == 0 {
		close(t.ready)
		<-ctx.Done()
		return nil
	}
	tool, err := ethtool.NewEthtool()
	if err != nil {
		return fmt.Errorf("udp_gro: ethtool: %w", err)
	}
	defer tool.Close()
	updates := make(chan netlink.LinkUpdate, 64)
	options := netlink.LinkSubscribeOptions{ErrorCallback: func(err error) {
		if ctx.Err() == nil {
			t.config.Log.Warn("udp_gro: new interfaces are not seen any more", "error", err)
		}
	}}
	if err := netlink.LinkSubscribeWithOptions(updates, ctx.Done(), options); err != nil {
		return fmt.Errorf("udp_gro: watch interfaces: %w", err)
	}
	links, err := dump.Whole(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("udp_gro: list interfaces: %w", err)
	}
	for _, l := range links {
		t.switchOn(tool, l.Attrs())
	}
	close(t.ready)
	for {
		select {
		case <-ctx.Done():
			t.restore(tool)
			return nil
		case u, ok := <-updates:
			if !ok {
				updates = nil // the callback has said why
				continue
			}
			if u.Header.Type == unix.RTM_DELLINK {
				delete(t.was, int(u.Index))
				continue
			}
			t.switchOn(tool, u.Attrs())
		}
	}
}

func (t *Task) wanted(name string) bool {
	for _, pattern := range t.config.Interfaces {
		if ok, _ := path.Match(pattern, name); ok {
			return true
		}
	}
	return false
}

// switchOn sees to an interface once.
func (t *Task) switchOn(tool *ethtool.Ethtool, l *netlink.LinkAttrs) {
	if _, done := t.was[l.Index]; done || !t.wanted(l.Name) {
		return
	}
	t.was[l.Index] = nil
	have, err := tool.Features(l.Name)
	if err != nil {
		t.config.Log.Warn("udp_gro: read features", "interface", l.Name, "error", err)
		return
	}
	was, want := map[string]bool{}, map[string]bool{}
	for _, f := range features {
		on, known := have[f]
		if !known {
			t.config.Log.Warn("udp_gro: the kernel lacks a feature (Linux 5.14)", "interface", l.Name, "feature", f)
			return
		}
		if !on {
			was[f], want[f] = false, true
		}
	}
	if len(want) == 0 {
		return
	}
	if err := tool.Change(l.Name, want); err != nil {
		t.config.Log.Warn("udp_gro: switch on", "interface", l.Name, "error", err)
		return
	}
	t.was[l.Index] = was
	t.config.Log.Info("small UDP packets are put together", "interface", l.Name)
}

// restore puts back what was changed, on interfaces that are still there.
func (t *Task) restore(tool *ethtool.Ethtool) {
	for index, was := range t.was {
		link, err := netlink.LinkByIndex(index)
		if len(was) == 0 || err != nil {
			continue
		}
		if err := tool.Change(link.Attrs().Name, was); err != nil {
			t.config.Log.Warn("udp_gro: put back", "interface", link.Attrs().Name, "error", err)
		}
	}
}
