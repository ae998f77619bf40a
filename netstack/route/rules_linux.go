package route

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/dump"
	"github.com/natless/natless/netstack/iprule"
)

func (r rule) netlink() *netlink.Rule {
	n := netlink.NewRule()
	n.Family, n.Priority, n.Table, n.Protocol = unix.AF_INET, r.priority, r.table, Protocol
	if r.to.IsValid() {
		n.Dst = toIPNet(single(r.to))
	}
	if r.proto != 0 {
		n.IPProto = int(r.proto)
		n.Dport = netlink.NewRulePortRange(r.ports.First, r.ports.Last)
	}
	n.Mark, n.IifName = r.mark, r.iif
	return n
}

func (kernelLocalRule) netlink() *netlink.Rule {
	n := netlink.NewRule()
	n.Family, n.Priority, n.Table, n.Protocol = unix.AF_INET, 0, unix.RT_TABLE_LOCAL, unix.RTPROT_KERNEL
	return n
}

func (k *linuxKernel) changeRule(remove bool, r *netlink.Rule) error {
	if remove {
		return ignore(iprule.Delete(k.conn, r), unix.ENOENT)
	}
	return ignore(iprule.Add(k.conn, r), unix.EEXIST)
}

// tcpStates are those of linux/tcp_states.h in which a socket takes part in a
// connection or waits for one. TIME_WAIT takes none of ours: it ends by itself.
var tcpStates = map[uint8]string{
	1: "established", 2: "syn-sent", 3: "syn-recv", 4: "fin-wait-1", 5: "fin-wait-2",
	8: "close-wait", 9: "last-ack", 10: "listening", 11: "closing", 13: "bound",
}

func (k *linuxKernel) sockets(h HostPool) ([]hostSocket, error) {
	var out []hostSocket
	for _, q := range []struct {
		name string
		list func(uint8) ([]*netlink.Socket, error)
	}{{"tcp", k.handle.SocketDiagTCP}, {"udp", k.handle.SocketDiagUDP}} {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			sockets, err := dump.Whole(func() ([]*netlink.Socket, error) { return q.list(family) })
			if err != nil {
				return nil, fmt.Errorf("list %s sockets: %w", q.name, err)
			}
			for _, s := range sockets {
				state, known := tcpStates[s.State]
				if q.name == "udp" {
					state, known = "bound", true
				}
				if known && receivesFrom(h, s.ID) {
					out = append(out, hostSocket{s.ID.SourcePort, fmt.Sprintf("%s %s %s", q.name, ends(s.ID), state)})
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b hostSocket) int { return cmp.Or(cmp.Compare(a.port, b.port), cmp.Compare(a.text, b.text)) })
	return slices.Compact(out), nil
}

// receivesFrom reports whether a socket gets what is sent to a port of the pool.
// A socket on [::] counts: it gets IPv4 unless it is for IPv6 only, which the
// kernel's answer leaves open.
func receivesFrom(h HostPool, id netlink.SocketID) bool {
	local, _ := netip.AddrFromSlice(id.Source)
	if local = local.Unmap(); local != h.Addr && !local.IsUnspecified() {
		return false
	}
	return h.Ports.Contains(id.SourcePort)
}

func ends(id netlink.SocketID) string {
	s := net.JoinHostPort(id.Source.String(), fmt.Sprint(id.SourcePort))
	if id.DestinationPort != 0 {
		s += " to " + net.JoinHostPort(id.Destination.String(), fmt.Sprint(id.DestinationPort))
	}
	return s
}

// readNftRules reads our table of a family, in the order of nftText.
func readNftRules(c *nftables.Conn, family nftables.TableFamily) ([]nftRule, error) {
	chains, err := c.ListChainsOfTableFamily(family)
	if err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", err)
	}
	slices.SortStableFunc(chains, func(a, b *nftables.Chain) int { return cmp.Compare(a.Name, b.Name) })
	var out []nftRule
	for _, chain := range chains {
		if chain.Table.Name != nftTableName {
			continue
		}
		rules, err := c.GetRules(chain.Table, chain)
		if err != nil {
			return nil, fmt.Errorf("list nftables rules: %w", err)
		}
		for _, r := range rules {
			text, _ := userdata.GetString(r.UserData, userdata.TypeComment)
			out = append(out, nftRule{chain.Name, text, r.Exprs})
		}
	}
	return out, nil
}

// prepare keeps how to make the tables that d needs.
func (k *linuxKernel) prepare(d Desired, o *observed) {
	k.tables = map[nftTable]nftDef{}
	for _, def := range nftDefs(k.device, d, o.facts) {
		k.tables[def.object()] = def
	}
}

func (k *linuxKernel) readTables(_ Desired, o *observed) error {
	k.nft.Drain()
	for _, family := range []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyIPv4} {
		table, err := k.nft.ListTableOfFamily(nftTableName, family)
		if err != nil || table == nil {
			continue // none, or a kernel without nftables: making one will tell
		}
		var have state
		err = k.nft.Unchanged(func() error {
			rules, err := readNftRules(k.nft.Conn, family)
			if err != nil {
				return err
			}
			have = state{}
			have.add(nftTable{familyName(family), nftText(rules)})
			return k.readContents(table, have)
		})
		if err != nil {
			return err
		}
		maps.Copy(o.have, have)
	}
	return nil
}

// changeTable replaces or removes a table in one transaction.
func (k *linuxKernel) changeTable(remove bool, t nftTable) error {
	family := familyOf(t.family)
	// Adding before deleting makes deleting never fail.
	table := k.nft.AddTable(&nftables.Table{Name: nftTableName, Family: family})
	k.nft.DelTable(table)
	if !remove {
		if err := k.addTable(table, k.tables[t]); err != nil {
			return err
		}
	}
	err := k.nft.Flush()
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EPROTONOSUPPORT) {
		return &MissingFeatureError{"nftables with fib and dup", "4.10",
			"modprobe nf_tables nft_fib_inet nft_dup_ipv4, or use a kernel with them: " + err.Error()}
	}
	return err
}

func (k *linuxKernel) addTable(table *nftables.Table, def nftDef) error {
	k.nft.AddTable(table)
	for i, s := range def.sets {
		// The library would count sets of all connections in one variable, without a lock.
		s.Table, s.ID = table, uint32(i)+1
		if err := k.nft.AddSet(&s.Set, nil); err != nil {
			return err
		}
		if err := k.addElements(&s.Set, s.elements); err != nil {
			return err
		}
	}
	chains := map[string]*nftables.Chain{}
	for _, c := range def.chains {
		c.Table = table
		chains[c.Name] = k.nft.AddChain(&c)
	}
	for _, r := range def.rules {
		k.nft.AddRule(&nftables.Rule{
			Table: table, Chain: chains[r.chain], Exprs: slices.Clone(r.exprs),
			UserData: userdata.AppendString(nil, userdata.TypeComment, r.text),
		})
	}
	return nil
}
