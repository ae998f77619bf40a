//go:build linux

// Package goflow2 has GoFlow2's decoder read what natlessd sends by IPFIX. It is a
// module of its own, so that nothing of that is among the dependencies of natless.
package goflow2

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/netsampler/goflow2/v2/decoders/netflow"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/load"
	"github.com/natless/natless/tests/netns"
)

func TestMain(m *testing.M) {
	status := m.Run()
	daemon.Remove()
	os.Exit(status)
}

// collected is what one collector was told.
type collected struct {
	t         testing.TB
	name      string
	mu        sync.Mutex
	templates netflow.NetFlowTemplateSystem
	next      uint32 // sequence
	events    []byte // natEvent, of serial 1
	names     map[uint64]string
	packets   uint64 // of flows of serial 1, both ways
	denied    string // of them: forwarding status, firewall event, packets, and the rule
	sessions  int
}

func (c *collected) message(b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var p netflow.IPFIXPacket
	if err := netflow.DecodeMessageVersion(bytes.NewBuffer(b), c.templates, nil, &p); err != nil {
		c.t.Errorf("%s: %v in % x", c.name, err, b)
		return
	}
	if p.ObservationDomainId != 7 || p.SequenceNumber != c.next {
		c.t.Errorf("%s: domain %d, sequence %d, want %d", c.name, p.ObservationDomainId, p.SequenceNumber, c.next)
	}
	for _, set := range p.FlowSets {
		switch set := set.(type) {
		case netflow.DataFlowSet:
			c.next += uint32(len(set.Records))
			for _, r := range set.Records {
				c.record(r.Values)
			}
		case netflow.OptionsDataFlowSet:
			c.next += uint32(len(set.Records))
			for _, r := range set.Records {
				c.names[number(r.ScopesValues[0])] = string(field(r.OptionsValues, 350, 0))
			}
		}
	}
}

func (c *collected) record(values []netflow.DataField) {
	if binary.BigEndian.Uint64(field(values, 138, 0)) != 1 {
		c.t.Errorf("%s: of serial %v", c.name, field(values, 138, 0))
	}
	if event := field(values, 230, 0); event != nil {
		c.events = append(c.events, event...)
		return
	}
	if rule := field(values, 335, 0); rule != nil {
		c.denied += fmt.Sprintf("%v %v %d %s\n", field(values, 89, 0), field(values, 233, 0), binary.BigEndian.Uint64(field(values, 2, 0)), rule)
		return
	}
	c.packets += binary.BigEndian.Uint64(field(values, 2, 0)) + binary.BigEndian.Uint64(field(values, 2, 29305))
}

func field(values []netflow.DataField, id uint16, enterprise uint32) []byte {
	for _, v := range values {
		if v.Type == id && v.Pen == enterprise {
			return v.Value.([]byte)
		}
	}
	return nil
}

func number(v netflow.DataField) uint64 { return binary.BigEndian.Uint64(v.Value.([]byte)) }

// stream reads messages of a connection.
func (c *collected) stream(conn net.Conn) {
	defer conn.Close()
	c.mu.Lock()
	c.templates, c.next = netflow.CreateTemplateSystem(), 0 // of this session
	c.sessions++
	c.mu.Unlock()
	head := make([]byte, 4)
	for {
		if _, err := io.ReadFull(conn, head); err != nil {
			return
		}
		b := make([]byte, binary.BigEndian.Uint16(head[2:]))
		copy(b, head)
		if _, err := io.ReadFull(conn, b[4:]); err != nil {
			return
		}
		c.message(b)
	}
}

// certificate makes one for an address, and writes it to a file.
func certificate(t *testing.T, address string) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.ParseIP(address)},
		IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, path
}

// TestIPFIX: by UDP, TCP and TLS, all that is sent can be read, with the sequence that
// it should have: flows, what was denied and by which rule, ownership, names; where flows are off, ownership alone; and a
// collector that hangs up, or comes late, is spoken to again.
func TestIPFIX(t *testing.T) {
	netns.Require(t, netns.Root, "ping")
	const address = "192.0.2.1"
	for _, flows := range []bool{true, false} {
		t.Run(fmt.Sprintf("flows %v", flows), func(t *testing.T) {
			w, host, server := netns.New(t, "w"), netns.New(t, "host"), netns.New(t, "server")
			netns.Veth(t, w, "eth0", host, "w")
			netns.Veth(t, host, "uplink", server, "eth0")
			host.IP("link set lo up")
			w.IP("addr add 2001:db8:6::2/64 dev eth0")
			host.IP("addr add 2001:db8:6::1/64 dev w")
			w.IP("route add default via 2001:db8:6::1")
			host.IP("addr add 192.0.2.1/24 dev uplink")
			server.IP("addr add 192.0.2.2/24 dev eth0")
			server.IP("route add default via 192.0.2.1")
			own, ca := certificate(t, address)
			all := map[string]*collected{}
			for _, name := range []string{"udp", "tcp", "tls"} {
				all[name] = &collected{t: t, name: name, templates: netflow.CreateTemplateSystem(), names: map[uint64]string{}}
			}
			listen := func(name, port string) net.Listener {
				l := load.ListenOn(t, host, net.JoinHostPort(address, port))
				if name == "tls" {
					l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{own}})
				}
				t.Cleanup(func() { l.Close() })
				go func() {
					for {
						c, err := l.Accept()
						if err != nil {
							return
						}
						go all[name].stream(c)
					}
				}()
				return l
			}
			var udp net.PacketConn
			var err error
			host.Do(func() { udp, err = net.ListenPacket("udp4", address+":4739") })
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { udp.Close() })
			go func() {
				b := make([]byte, 65536)
				for {
					n, _, err := udp.ReadFrom(b)
					if err != nil {
						return
					}
					all["udp"].message(bytes.Clone(b[:n]))
				}
			}()
			listen("tcp", "4739")
			d := daemon.Start(t, host, fmt.Sprintf(`
uplink: uplink
prefix: 2001:db8:64::/96
addresses: {ipv4: 198.51.100.1, ipv6: "2001:db8::1"}
pools: [{name: default, ipv4: 198.51.100.8/32, whole_address: true, cooldown: 0s}]
flows:
  enabled: %v
  ipfix: {collectors: ["udp://%s", "tcp://%s:4739", "tls://%s"], ca: %s, domain: 7}
policies:
  - name: web
    tier: Admin
    priority: 1
    subject: {name: ns/one}
    egress: [{name: others, action: Deny, to: [{networks: [192.0.2.3/32]}]}]
`, flows, address, address, address, ca))
			listen("tls", "4740") // which was not there when it was called first
			sessions := func(name string) int {
				all[name].mu.Lock()
				defer all[name].mu.Unlock()
				return all[name].sessions
			}
			load.Within(t, 10*time.Second, "sessions", func() bool { return sessions("tcp") == 1 && sessions("tls") == 1 })
			key := api.Key{ContainerID: "one", Interface: "eth0"}
			if _, err := d.Client().Put(t.Context(), key, api.Request{Name: "ns/one", IPv6: []netip.Addr{netip.MustParseAddr("2001:db8:6::2")},
				Netns: w.Path, HostInterface: "w"}); err != nil {
				t.Fatal(err)
			}
			w.Run("ping", "-n", "-q", "-c", "5", "-i", "0.02", "-W", "5", "2001:db8:64::192.0.2.2")
			w.Command("ping", "-n", "-q", "-c", "3", "-i", "0.02", "-W", "1", "2001:db8:64::192.0.2.3").Run() // which is not answered
			if flows {
				err := d.Client().Flows(t.Context(), api.FlowFilter{Open: true}, func(api.SeenFlow) error { return nil })
				if err != nil {
					t.Error(err)
				}
			}
			if err := d.Client().Delete(t.Context(), key); err != nil {
				t.Fatal(err)
			}
			d.Stop()
			want, denied := uint64(0), ""
			if flows {
				want, denied = 10, "[129] [3] 3 web egress others\n"
			}
			for name, c := range all {
				load.Within(t, 10*time.Second, "what was sent by "+name, func() bool {
					c.mu.Lock()
					defer c.mu.Unlock()
					return bytes.Equal(c.events, []byte{16, 17}) && c.names[1] == "ns/one" && c.packets == want && c.denied == denied
				})
				t.Logf("%s: events %v, names %v, %d packets, denied %q", name, c.events, c.names, c.packets, c.denied)
			}
		})
	}
}
