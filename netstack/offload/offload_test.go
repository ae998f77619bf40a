//go:build linux

package offload

import (
	"testing"

	"github.com/cilium/ebpf"

	"github.com/natless/natless/tests/generate"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

func TestTranslates(t *testing.T) {
	r := newRig(t)
	f, err := Load()
	if err != nil {
		t.Fatalf("%+v", err)
	}
	defer f.Close()
	w := generate.Worlds()[0]
	table, err := mapping.New(w.Prefix, w.Mappings)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := translator.New(w.Config, table)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Replace(Tables{Table: table, Config: tr.Config(), Interface: func(mapping.Mapping) int { return r.down }}); err != nil {
		t.Fatal(err)
	}
	g := generate.New(w, 1)
	r.Do(func() {
		for range 2000 {
			p := g.Next6()
			if len(p.Bytes) > 3000 || len(p.Bytes) < 60 || p.Offload.Flags != 0 {
				continue
			}
			in := append(append(append([]byte{}, r.downMAC...), 2, 0, 0, 0, 0, 3, 0x86, 0xdd), p.Bytes...)
			o := &ebpf.RunOptions{Data: in, DataOut: make([]byte, 4096), Context: &skb{Ifindex: uint32(r.down)}}
			if _, err := f.Workload.Run(o); err != nil {
				t.Error(err)
				return
			}
		}
	})
	c, err := f.Counters()
	if err != nil || c.Workload[Translated].Packets == 0 {
		t.Fatalf("%+v, %v", c, err)
	}
}

// skb is struct __sk_buff as BPF_PROG_TEST_RUN takes it.
type skb struct {
	_       [10]uint32
	Ifindex uint32
	_       [29]uint32
	_       uint32 // wire_len
	GSOSegs uint32
	_       [2]uint32
	GSOSize uint32
	_       uint32
	_       [2]uint32
}
