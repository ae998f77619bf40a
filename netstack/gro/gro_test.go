//go:build linux

package gro

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/tests/netns"
)

// on reports whether small UDP packets are put together on an interface.
func on(ns *netns.NS, name string) bool {
	out := ns.Run("ethtool", "-k", name)
	return strings.Contains(out, "generic-receive-offload: on") && strings.Contains(out, "rx-udp-gro-forwarding: on")
}

func TestInterfacesComeAndGo(t *testing.T) {
	netns.Require(t, "ethtool")
	x, other := netns.New(t, "x"), netns.New(t, "o")
	netns.Veth(t, x, "veth1", other, "eth1")
	netns.Veth(t, x, "eth2", other, "eth2")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	task := New(Config{Interfaces: []string{"veth*"}, Log: slog.New(slog.DiscardHandler)})
	done := make(chan error, 1)
	go x.Do(func() { done <- task.Run(ctx) })
	<-task.Ready()
	if !on(x, "veth1") || on(x, "eth2") {
		t.Errorf("veth1 %v, eth2 %v", on(x, "veth1"), on(x, "eth2"))
	}
	netns.Veth(t, x, "veth3", other, "eth3")
	for deadline := time.Now().Add(5 * time.Second); !on(x, "veth3"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a new interface is not seen")
		}
	}
	x.IP("link del veth3")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if on(x, "veth1") {
		t.Error("it was not put back")
	}
}

// What was on before stays on afterwards.
func TestWhatWasOnStaysOn(t *testing.T) {
	netns.Require(t, "ethtool")
	x, other := netns.New(t, "x"), netns.New(t, "o")
	netns.Veth(t, x, "veth1", other, "eth1")
	x.Run("ethtool", "-K", "veth1", "gro", "on", "rx-udp-gro-forwarding", "on")
	ctx, cancel := context.WithCancel(t.Context())
	task := New(Config{Interfaces: []string{"veth1"}, Log: slog.New(slog.DiscardHandler)})
	done := make(chan error, 1)
	go x.Do(func() { done <- task.Run(ctx) })
	<-task.Ready()
	cancel()
	<-done
	if !on(x, "veth1") {
		t.Error("it was switched off")
	}
}

func TestNothingToDo(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	task := New(Config{})
	done := make(chan error, 1)
	go func() { done <- task.Run(ctx) }()
	<-task.Ready()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
