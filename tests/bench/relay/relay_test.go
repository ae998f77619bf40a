//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
)

// Checksums hold whatever number a frame has.
func TestFrames(t *testing.T) {
	for name, f := range map[string]frame{"6": frame6(workload6, behind, farFab, relayFab), "4": frame4(server4, workload4, farWAN, relayWAN)} {
		for _, n := range []uint16{0, 1, 255, 4711, 16383} {
			b := bytes.Clone(f.bytes)
			binary.BigEndian.PutUint16(b[f.number:], n)
			for _, at := range f.complements {
				binary.BigEndian.PutUint16(b[at:], ^n)
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
