//go:build linux

package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/natless/natless/tests/netns"
)

// HTTP/3: UDP superpackets with path MTU discovery of its own.
func TestHTTP3(t *testing.T) {
	t.Parallel()
	n := newTopology(t)
	for name, way := range map[string]struct {
		from, to *netns.NS
		address  string
	}{
		"6→4":                         {n.w1, n.server, serverv6},
		"4→6":                         {n.server, n.w1, workload1v4},
		"6→4 through a 1400-byte hop": {n.w1, n.far, farv6},
		"4→6 through a 1400-byte hop": {n.server, n.w2, workload2v4},
	} {
		t.Run(name, func(t *testing.T) {
			port := serveHTTP3(t, way.to)
			transport := &quic.Transport{Conn: udp(t, way.from)}
			client := &http3.Transport{
				TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
				Dial: func(ctx context.Context, address string, c *tls.Config, q *quic.Config) (*quic.Conn, error) {
					to, err := net.ResolveUDPAddr("udp", address)
					if err != nil {
						return nil, err
					}
					return transport.DialEarly(ctx, to, c, q)
				},
			}
			defer transport.Close()
			defer client.Close()
			const size = 8 << 20
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			request, err := http.NewRequestWithContext(ctx, "GET", fmt.Sprintf("https://%s/%d", net.JoinHostPort(way.address, port), size), nil)
			if err != nil {
				t.Fatal(err)
			}
			answer, err := client.RoundTrip(request)
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			h := sha256.New()
			if _, err := io.Copy(h, answer.Body); err != nil {
				t.Fatal(err)
			}
			if got := hex.EncodeToString(h.Sum(nil)); got != patternSum(size) {
				t.Errorf("sha256 %s, want %s", got, patternSum(size))
			}
		})
	}
}

func udp(t *testing.T, ns *netns.NS) (conn *net.UDPConn) {
	t.Helper()
	var err error
	ns.Do(func() { conn, err = net.ListenUDP("udp", nil) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func serveHTTP3(t *testing.T, ns *netns.NS) (port string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	conn := udp(t, ns)
	server := &http3.Server{
		Handler: http.HandlerFunc(pattern),
		TLSConfig: http3.ConfigureTLSConfig(&tls.Config{
			Certificates: []tls.Certificate{{Certificate: [][]byte{certificate}, PrivateKey: key}},
		}),
	}
	go server.Serve(conn)
	t.Cleanup(func() { server.Close() })
	_, port, _ = net.SplitHostPort(conn.LocalAddr().String())
	return port
}
