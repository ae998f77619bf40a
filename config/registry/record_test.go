package registry

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/translator/ports"
)

func TestRecords(t *testing.T) {
	now := time.Unix(1_700_000_000, 123)
	full := &Assignment{Serial: 1 << 60, Succeeds: 1<<60 - 1, Key: key(1), Pool: "host", Address: netip.MustParseAddr("192.0.2.1"), Since: now, Until: now.Add(time.Hour), size: 1024,
		Ports: ports.MustParse("443,1024-2047"),
		Request: api.Request{Name: "n", Network: "w", Netns: "/x", HostInterface: "veth1", IPv6: append(request(1).IPv6, request(2).IPv6...), Pool: "p", Ports: 1000,
			Address: netip.MustParseAddr("192.0.2.1"), ExtraPorts: []uint16{443}}}
	least := &Assignment{Serial: 1, Key: key(2), Address: netip.MustParseAddr("192.0.2.2"), Since: now, Request: request(7)}
	for _, a := range []*Assignment{full, least} {
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
