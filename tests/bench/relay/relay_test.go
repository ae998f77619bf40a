//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/natless/natless/tests/netns"
)

// Checksums hold whatever number a frame has.
func TestFrames(t *testing.T) {
	netns.Require(t, netns.Root)
	for name, f := range map[string]frame{"6": frame6(workload6, behind, farFab, relayFab), "4": frame4(server4, workload4, farWAN, relayWAN)} {
		g, err := newGenerator(f, 1, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range []uint32{0, 1, 255, 4711, 0xffff, 0x10000, 0xfffff} {
			b, err := g.frame(n)
			if err != nil {
				t.Fatal(err)
			}
			if at := b[f.number-1:]; uint32(at[0]&0xf)<<16|uint32(binary.BigEndian.Uint16(at[1:])) != n {
				t.Errorf("IPv%s, number %d: %x", name, n, b)
			}
			ip := b[ethernet:]
			addresses, upper := ip[8:40], ip[40:]
			if name == "4" {
				addresses, upper = ip[12:20], ip[20:]
				if sum(ip[:20]) != 0xffff {
					t.Errorf("number %d: header of IPv4: %x", n, ip)
				}
			}
			if sum(addresses, []byte{0, 17, 0, byte(len(upper))}, upper) != 0xffff {
				t.Errorf("IPv%s, number %d: %x", name, n, ip)
			}
		}
	}
}

// frame is what it sends under a number.
func (g *generator) frame(number uint32) ([]byte, error) {
	value := make([]byte, g.next.ValueSize())
	err := g.next.Lookup(uint32(0), &value)
	binary.NativeEndian.PutUint64(value, uint64(number))
	o := ebpf.RunOptions{Data: make([]byte, g.length), DataOut: make([]byte, g.length)}
	if err := errors.Join(err, g.next.Put(uint32(0), value)); err != nil {
		return nil, err
	}
	_, err = g.program.Run(&o)
	return o.DataOut, err
}

// A table says what is reached and what is not, from ratios within rounds.
func TestPrint(t *testing.T) {
	f := figures{}
	for _, d := range []string{to4, to6} {
		f[key(byTC, d, 1)], f[key(byXDP, d, 1)] = []float64{1000, 500, 900}, []float64{500, 400, 450}
		f[key(byTwo, d, 1)] = []float64{600, 420, 500}
	}
	f[key(byKernel, to4, 1)] = []float64{500, 450, 500}
	var out bytes.Buffer
	f.print(&out, []int{1})
	if got := out.String(); strings.Count(got, "0.50 reached") != 2 || strings.Count(got, "0.90 missed") != 2 ||
		strings.Count(got, "1.11 missed") != 2 {
		t.Errorf("%s", got)
	}
}
