package tun

import (
	"testing"

	"github.com/natless/natless/translator"
)

// Ready is the packet just given and what comes behind it; nothing before the
// first.
func TestUringReady(t *testing.T) {
	var q Queue = &uringQueue{}
	b, ok := q.(Batcher)
	if !ok || len(b.Ready()) != 0 {
		t.Fatalf("%v before the first", b)
	}
	a, z := new(translator.Packet), new(translator.Packet)
	q.(*uringQueue).ready = []*translator.Packet{a, z}
	if p, fresh, err := q.Next(); p != a || err != nil || fresh {
		t.Fatalf("%v, %v, %v", p, fresh, err)
	}
	if r := b.Ready(); len(r) != 2 || r[0] != a || r[1] != z {
		t.Errorf("%v behind the first", r)
	}
	q.Next()
	if r := b.Ready(); len(r) != 1 || r[0] != z {
		t.Errorf("%v behind the second", r)
	}
}
