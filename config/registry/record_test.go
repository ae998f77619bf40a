package registry

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"maps"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/translator/ports"
)

// TestRecordBytes: what an earlier version wrote is read, and the ports of what is
// written are the same bytes.
func TestRecordBytes(t *testing.T) {
	now := time.Unix(1_700_000_000, 123).UTC()
	const before, after = "03076330303030303104657468300000000001700004c0000201000120010db800000000000000000000000100",
		"00fb80a8b1e39fe7cb1700fb80a8b1e39fe7cb17"
	for set, want := range map[string]string{
		"":                    before + "00" + after + "5728749e",
		"1024-2047":           before + "018008ff0f" + after + "0c8f6745",
		"443,1024-2047,65535": before + "03bb03bb038008ff0fffff03ffff03" + after + "3d793f22",
	} {
		a := &Assignment{Key: key(1), Pool: "p", Address: netip.MustParseAddr("192.0.2.1"), Since: now, Ports: ports.MustParse(set),
			Request: api.Request{IPv6: []netip.Addr{netip.MustParseAddr("2001:db8::1")}}}
		b, _ := hex.DecodeString(want)
		numbered := slices.Concat([]byte{record, 7, 6}, b[1:len(b)-4]) // the same with serials
		a.Serial, a.Succeeds = 7, 6
		if got := encode(a, now); !bytes.Equal(got[:len(got)-4], numbered) {
			t.Errorf("%q:\n%x, want\n%x", set, got, numbered)
		}
		if got, _, err := decode(b); err != nil || !got.Ports.Equal(a.Ports) {
			t.Errorf("%q is read as %+v, %v", set, got, err)
		}
	}
}

// TestRecordPorts: ports that no version writes are damage.
func TestRecordPorts(t *testing.T) {
	good := &Assignment{Key: key(1), Address: netip.MustParseAddr("192.0.2.1"), Ports: ports.MustParse("5-9"), Request: request(1)}
	b := encode(good, time.Time{})
	at := bytes.LastIndex(b, []byte{1, 5, 9}) // one range
	for _, bad := range [][]byte{{1, 9, 5}, {2, 5, 9, 9, 10}} {
		damaged := slices.Concat(b[:at], bad, b[at+3:len(b)-4])
		damaged = binary.BigEndian.AppendUint32(damaged, checksum(damaged))
		if a, _, err := decode(damaged); err == nil {
			t.Errorf("%v is read as %v", bad, a.Ports)
		}
	}
}

// TestRecordOfBefore: who has no labels is written as before there were any.
func TestRecordOfBefore(t *testing.T) {
	a := &Assignment{Serial: 1, Key: key(2), Address: netip.MustParseAddr("192.0.2.2"), Request: request(7)}
	a.Request.Labels = map[string]string{}
	if b := encode(a, time.Time{}); b[0] != record {
		t.Errorf("kind %d", b[0])
	}
	a.Request.Labels["app"] = "web"
	if b := encode(a, time.Time{}); b[0] != recordLabels {
		t.Errorf("kind %d", b[0])
	}
}

// TestLabelsLast: labels are kept over a restart, and a put with others changes them and
// nothing else.
func TestLabelsLast(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry.db")
	open := func() *Registry {
		t.Helper()
		r, err := Open(Options{Path: path, Pools: []Pool{{Name: "p", IPv4: netip.MustParsePrefix("192.0.2.0/24"), PortsPerWorkload: 1024}}})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := open()
	q := request(1)
	q.Labels = map[string]string{"app": "web"}
	first, err := r.Put(t.Context(), key(1), q)
	if err != nil {
		t.Fatal(err)
	}
	q.Labels = map[string]string{"app": "db", "tier": "back"}
	second, err := r.Put(t.Context(), key(1), q)
	if err != nil || second.Serial != first.Serial || second.Address != first.Address {
		t.Errorf("with other labels: %+v, %v", second, err)
	}
	r.Close()
	r = open()
	defer r.Close()
	if a, err := r.Get(key(1)); err != nil || !maps.Equal(a.Request.Labels, q.Labels) {
		t.Errorf("after a restart: %+v, %v", a, err)
	}
	q.Labels = map[string]string{"": "x"}
	if _, err := r.Put(t.Context(), key(1), q); err == nil {
		t.Error("a label without a key is taken")
	}
}

func TestRecords(t *testing.T) {
	now := time.Unix(1_700_000_000, 123)
	full := &Assignment{Serial: 1 << 60, Succeeds: 1<<60 - 1, Key: key(1), Pool: "host", Address: netip.MustParseAddr("192.0.2.1"), Since: now, Until: now.Add(time.Hour), size: 1024,
		Ports: ports.MustParse("443,1024-2047"),
		Request: api.Request{Name: "n", Network: "w", Netns: "/x", HostInterface: "veth1", IPv6: append(request(1).IPv6, request(2).IPv6...), Pool: "p", Ports: 1000,
			Address: netip.MustParseAddr("192.0.2.1"), ExtraPorts: []uint16{443}}}
	least := &Assignment{Serial: 1, Key: key(2), Address: netip.MustParseAddr("192.0.2.2"), Since: now, Request: request(7)}
	inside, odd := *full, *least
	inside.Request.Inside, inside.inside = api.IPv4ByPool, 0xc0000205
	odd.inside = 1
	labelled, both := *least, inside
	labelled.Request.Labels = map[string]string{"app": "web", "a/b": ""}
	both.Request.Labels = map[string]string{"app": "web"}
	for _, a := range []*Assignment{full, least, &inside, &odd, &labelled, &both} {
		b := encode(a, now)
		got, cool, err := decode(b)
		if err != nil || !cool.Equal(now) || !reflect.DeepEqual(got, a) {
			t.Errorf("%+v\nbecame %+v, %v, %v", a, got, cool, err)
		}
		for n := range b {
			if got, _, err := decode(b[:n]); err == nil {
				t.Errorf("the first %d of %d bytes became %+v", n, len(b), got)
			}
		}
	}
}
