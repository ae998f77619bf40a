package api

import (
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"github.com/natless/natless/translator/ports"
)

// TestWorkloadBytes: programs of others read this, as the first version wrote it, with the serial number since.
func TestWorkloadBytes(t *testing.T) {
	const before = `{"container_id":"c","interface":"eth0","serial":7,"request":{"ipv6":["2001:db8::1"]},"pool":"p","address":"192.0.2.1",`
	const after = `"since":"2023-11-14T22:13:20Z","violations":0}`
	for set, want := range map[string]string{
		"":                    before + after,
		"1024-2047":           before + `"ports":[{"first":1024,"last":2047}],` + after,
		"443,1024-2047,65535": before + `"ports":[{"first":443,"last":443},{"first":1024,"last":2047},{"first":65535,"last":65535}],` + after,
	} {
		w := Workload{Key: Key{"c", "eth0"}, Serial: 7, Pool: "p", Address: netip.MustParseAddr("192.0.2.1"), Ports: ports.MustParse(set),
			Since: time.Unix(1_700_000_000, 0).UTC(), Request: Request{IPv6: []netip.Addr{netip.MustParseAddr("2001:db8::1")}}}
		got, err := json.Marshal(w)
		if err != nil || string(got) != want {
			t.Errorf("%q: %s, %v", set, got, err)
		}
		var back Workload
		if err := json.Unmarshal(got, &back); err != nil || !back.Ports.Equal(w.Ports) {
			t.Errorf("%s is read as %+v, %v", got, back, err)
		}
	}
}

func TestRun(t *testing.T) {
	for set, want := range map[string]ports.Range{"": {First: 0, Last: 65535}, "443,1024-2047": {First: 1024, Last: 2047}} {
		w := Workload{Ports: ports.MustParse(set)}
		if got := w.Run(); got != want {
			t.Errorf("%q: %v", set, got)
		}
	}
}
