package conflist

import (
	"os"
	"path/filepath"
	"testing"
)

func TestMisspelt(t *testing.T) {
	for text, want := range map[string]string{
		`{"type": "natless-cni", "socket": "/x", "pool": "a", "ports": 1, "address": "192.0.2.1", "extraPorts": [], "ipv4": "inside", "tcpTwReuse": true}`: "",
		`{"cniVersion": "1.1.0", "name": "pods", "capabilities": {}, "ipam": {}, "dns": {}, "prevResult": {}, "somethingNew": 1}`:                          "",
		`{"prots": 1}`: "prots is ports", `{"extra_ports": []}`: "extra_ports is extraPorts", `{"Pools": "x"}`: "Pools is pool",
		`{"adress": ""}`: "adress is address", `no JSON`: "",
	} {
		key, meant := Misspelt([]byte(text))
		if got := key + " is " + meant; got != want && (key != "" || want != "") {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

func TestIn(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"10-ours.conflist":   `{"plugins": [{"type": "ptp"}, {"type": "natless-cni", "socket": "/s", "pool": "p"}]}`,
		"20-others.conflist": `{"plugins": [{"type": "bridge"}]}`,
		"30-broken.conflist": `{`,
		"40-single.conf":     `{"type": "natless-cni"}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all := In(dir)
	if len(all) != 1 || filepath.Base(all[0].Path) != "10-ours.conflist" || all[0].Socket != "/s" || all[0].Pool != "p" {
		t.Errorf("%+v", all)
	}
	if all := In(filepath.Join(dir, "none")); all != nil {
		t.Errorf("%+v", all)
	}
}
