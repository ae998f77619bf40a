//go:build linux

package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/natless/natless/tests/netns"
)

// pattern answers /N with N bytes that never repeat, the same each time.
func pattern(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.ParseInt(strings.TrimPrefix(r.URL.Path, "/"), 10, 64)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	w.Header().Set("Peer", r.RemoteAddr)
	io.CopyN(w, newPattern(), n)
}

func newPattern() io.Reader { return rand.NewChaCha8([32]byte{1}) }

func patternSum(n int64) string {
	h := sha256.New()
	io.CopyN(h, newPattern(), n)
	return hex.EncodeToString(h.Sum(nil))
}

// curl downloads size bytes from address in ns, compares the sum, and returns
// the address that the server saw.
func curl(t *testing.T, ns *netns.NS, address, port string, size int64) (peer string) {
	t.Helper()
	url := fmt.Sprintf("http://%s/%d", net.JoinHostPort(address, port), size)
	out := ns.Run("bash", "-c", "set -o pipefail; exec 3>&1; curl -sS --fail --max-time 60 -D /dev/fd/3 '"+url+"' | sha256sum")
	for line := range strings.Lines(out) {
		if v, ok := strings.CutPrefix(line, "Peer: "); ok {
			peer, _, _ = net.SplitHostPort(strings.TrimSpace(v))
		}
	}
	if want := patternSum(size); !strings.Contains(out, want) {
		t.Errorf("curl %s: want sha256 %s, got\n%s", url, want, out)
	}
	return peer
}

func TestCurl(t *testing.T) {
	t.Parallel()
	netns.Require(t, netns.Root, "curl")
	n := newTopology(t)
	for name, way := range map[string]struct {
		from, to      *netns.NS
		address, peer string
	}{
		"6→4":                         {n.w1, n.server, serverv6, workload1v4},
		"4→6":                         {n.server, n.w1, workload1v4, serverv6},
		"6→4 through a 1400-byte hop": {n.w1, n.far, farv6, workload1v4},
		"4→6 through a 1400-byte hop": {n.server, n.w2, workload2v4, serverv6},
		"hairpin":                     {n.w1, n.w2, "2001:db8:64::c633:6403", "2001:db8:64::c633:6402"},
	} {
		t.Run(name, func(t *testing.T) {
			peer := curl(t, way.from, way.address, serveHTTP(t, way.to), 16<<20)
			if peer != way.peer {
				t.Errorf("the server saw %s, want %s", peer, way.peer)
			}
		})
	}
}
