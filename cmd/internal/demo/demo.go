package demo

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/natless/natless/cmd/internal/explain"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/netstack/host"
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/ports"
)

// size of the download, in bytes.
const size = 16 << 20

// workload is an IPv6-only host with what the registry gave it.
type workload struct {
	*host.Host
	*registry.Assignment
	name string
	ip   netip.Addr
}

// show is one run of the demo.
type show struct {
	w          io.Writer
	net        *network
	registry   *registry.Registry
	server     *host.Host
	shop, blog *workload
	till       *workload // has its IPv4 inside
}

// Run shows everything on w. owner writes what whois found.
func Run(ctx context.Context, w io.Writer, owner func(io.Writer, api.Owner) error) error {
	dir, err := os.MkdirTemp("", "natless-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s := &show{w: w}
	if err := s.build(ctx, dir); err != nil {
		return err
	}
	defer s.registry.Close()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	var running sync.WaitGroup
	var failed error
	running.Go(func() { failed = s.net.run(ctx); cancel() })
	err = s.acts(ctx, owner)
	cancel()
	running.Wait()
	return errors.Join(err, failed)
}

// build makes the hosts, and gives the workloads their ports.
func (s *show) build(ctx context.Context, dir string) (err error) {
	if s.net, err = newNetwork(); err != nil {
		return err
	}
	s.registry, err = registry.Open(registry.Options{
		Path: filepath.Join(dir, "registry.db"), History: 100,
		Pools: []registry.Pool{{Name: "default", IPv4: shared, PortsPerWorkload: 1024, Reserved: ports.MustParse("0-1023")}},
		Sink: func(_ context.Context, c registry.Change) error {
			return s.net.translator.Edit(func(t *mapping.Table) (*mapping.Table, error) { return t.Insert(c.New.Mapping()) })
		},
	})
	if err != nil {
		return err
	}
	if s.server, err = s.net.add(server4); err != nil {
		return err
	}
	if s.shop, err = s.assign(ctx, "shop", shop6, 443); err != nil {
		return err
	}
	if s.blog, err = s.assign(ctx, "blog", blog6); err != nil {
		return err
	}
	s.till, err = s.place(ctx, "till", api.Request{IPv6: []netip.Addr{till6}, Inside: api.IPv4Inside, HostInterface: "veth-till"})
	return err
}

func (s *show) assign(ctx context.Context, name string, ip netip.Addr, extra ...uint16) (*workload, error) {
	return s.place(ctx, name, api.Request{IPv6: []netip.Addr{ip}, ExtraPorts: extra})
}

func (s *show) place(ctx context.Context, name string, q api.Request) (*workload, error) {
	q.Name = "demo/" + name
	a, err := s.registry.Put(ctx, api.Key{ContainerID: name, Interface: "eth0"}, q)
	if err != nil {
		return nil, err
	}
	ip, has := q.IPv6[0], q.IPv6[0]
	if inside := a.Inside(); inside.IsValid() {
		has = inside
	}
	h, err := s.net.addAt(ip, has)
	if err != nil {
		return nil, err
	}
	run := a.Ports.Longest()                                    // which connections leave from
	if err := h.SetPortRange(run.First, run.Last); err != nil { // as ip_local_port_range does in a kernel
		return nil, errors.New(err.String())
	}
	return &workload{h, a, name, ip}, nil
}

func (s *show) say(format string, args ...any) { fmt.Fprintf(s.w, format, args...) }

func (s *show) title(t string) { s.say("\n%s\n%s\n", t, strings.Repeat("-", len(t))) }

// acts are in the order in which they make sense.
func (s *show) acts(ctx context.Context, owner func(io.Writer, api.Owner) error) error {
	s.introduce()
	stop, err := s.serve()
	if err != nil {
		return err
	}
	defer stop()
	if err := s.names(ctx); err != nil {
		return err
	}
	ports, err := s.downloads(ctx)
	if err != nil {
		return err
	}
	s.title("The same packets on both sides")
	s.say("%s", sides(s.net.trace.connection(shop6, ports[0]), 9))
	if err := s.pings(ctx); err != nil {
		return err
	}
	if err := s.inbound(ctx); err != nil {
		return err
	}
	literal, err := s.literal(ctx)
	if err != nil {
		return err
	}
	if err := s.whois([]uint16{ports[0], ports[1], literal}, owner); err != nil {
		return err
	}
	return s.explain(ports[0])
}

func (s *show) introduce() {
	s.say(`Everything here runs in this one process, without privileges: IP stacks, servers, translator.

  demo/shop  %s --.                                 .-- www.example.test  %s
  demo/blog  %s --|-- natless ----------------------|   (HTTP and DNS, no IPv6)
  (no IPv4)                  |   own %s, %s  '-- the host          %s
  demo/till  %s --'   prefix %s
  (its program knows IPv4 alone)

The workloads share %s. Each owns some of its ports, and nothing else is remembered:
`, shop6, server4, blog6, own6, own4, router4, till6, prefix, shared.Addr())
	for _, w := range []*workload{s.shop, s.blog, s.till} {
		s.say("  demo/%s  %s ports %s\n", w.name, w.Address, api.PortsText(w.Ports))
	}
}

// serve starts the web and name servers of the IPv4 side.
func (s *show) serve() (stop func(), err error) {
	web, err := s.server.ListenTCP(netip.AddrPortFrom(server4, 80))
	if err != nil {
		return nil, err
	}
	udp, err := s.server.ListenUDP(nameserv)
	if err != nil {
		return nil, err
	}
	h := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Peer", r.RemoteAddr)
		io.CopyN(w, content(), size)
	})}
	ready := make(chan struct{})
	d := &dns.Server{PacketConn: udp, Handler: dns.HandlerFunc(answer), ReadTimeout: time.Hour, NotifyStartedFunc: func() { close(ready) }}
	var running sync.WaitGroup
	running.Go(func() { h.Serve(web) })
	running.Go(func() { d.ActivateAndServe() })
	<-ready
	return func() { h.Close(); d.Shutdown(); running.Wait() }, nil
}

// content is the same random bytes each time.
func content() io.Reader { return rand.NewChaCha8([32]byte{'n'}) }

// answer knows one name, which has an IPv4 address alone.
func answer(w dns.ResponseWriter, q *dns.Msg) {
	r := new(dns.Msg).SetReply(q)
	soa, _ := dns.NewRR("example.test. 60 SOA ns.example.test. h.example.test. 1 1 1 1 60")
	a, _ := dns.NewRR("www.example.test. 60 A " + server4.String())
	switch q := q.Question[0]; {
	case q.Name != "www.example.test.":
		r.Rcode, r.Ns = dns.RcodeNameError, []dns.RR{soa}
	case q.Qtype == dns.TypeA:
		r.Answer = []dns.RR{a}
	default:
		r.Ns = []dns.RR{soa}
	}
	w.WriteMsg(r)
}

func (s *show) names(ctx context.Context) error {
	s.title("A name that has only IPv4, asked of the translator's DNS64")
	a, err := resolver(s.shop.Host).LookupNetIP(ctx, "ip6", "www.example.test.")
	if err != nil {
		return err
	}
	s.say("    www.example.test  A     %s\n    www.example.test  AAAA  %s  (made by DNS64)\n", server4, a[0])
	return nil
}

// downloads has both workloads download at once, and gives their ports.
func (s *show) downloads(ctx context.Context) (ports [2]uint16, err error) {
	s.title("Both workloads download at once, with net/http")
	want := sha256.New()
	io.CopyN(want, content(), size)
	var running sync.WaitGroup
	var errs [2]error
	var lines [2]string
	for i, w := range []*workload{s.shop, s.blog} {
		running.Go(func() {
			began := time.Now()
			peer, sum, err := w.download(ctx)
			if errs[i] = err; err != nil {
				return
			}
			same := "the right sha256"
			if sum != [32]byte(want.Sum(nil)) {
				same, errs[i] = "ANOTHER sha256", errors.New("the download was damaged")
			}
			took := time.Since(began)
			ports[i] = peer.Port()
			lines[i] = fmt.Sprintf("    demo/%s  %d MB in %.2f s, %s; the server saw %s\n", w.name, size>>20, took.Seconds(), same, peer)
		})
	}
	running.Wait()
	s.say("%s%s", lines[0], lines[1])
	return ports, errors.Join(errs[:]...)
}

func (w *workload) download(ctx context.Context) (peer netip.AddrPort, sum [32]byte, err error) {
	return fetch(ctx, "http://www.example.test/", func(ctx context.Context, network, address string) (net.Conn, error) {
		name, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		a, err := resolver(w.Host).LookupNetIP(ctx, "ip6", name+".")
		if err != nil {
			return nil, err
		}
		return w.DialContext(ctx, network, net.JoinHostPort(a[0].String(), port))
	})
}

func fetch(
	ctx context.Context, url string, dial func(ctx context.Context, network, address string) (net.Conn, error),
) (peer netip.AddrPort, sum [32]byte, err error) {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: dial}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return peer, sum, err
	}
	r, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return peer, sum, err
	}
	defer r.Body.Close()
	h := sha256.New()
	if _, err := io.Copy(h, r.Body); err != nil {
		return peer, sum, err
	}
	peer, err = netip.ParseAddrPort(r.Header.Get("Peer"))
	return peer, [32]byte(h.Sum(nil)), err
}

// explain shows what natless explain says of a packet of demo/shop's, and of
// one that it must not send.
func (s *show) explain(port uint16) error {
	foreign := s.blog.Ports.Longest().First
	for _, c := range []struct {
		title string
		port  uint16
	}{
		{"natless explain, about a packet of demo/shop's", port},
		{"natless explain, about one from a port of demo/blog's", foreign},
	} {
		s.title(c.title)
		e, err := explain.Packet(s.net.translator, fmt.Sprintf("ipv6 src %s dst %s tcp sport %d dport 80", shop6, embedded(server4), c.port))
		if err != nil {
			return err
		}
		s.say("%s", indent(e.Text))
	}
	return nil
}

func indent(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n    ") + "\n"
}
