package guard

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/internal/nftsocket"
)

// elementsAtOnce is how many fit into one message: an attribute has less than
// 64 KiB. It is even, so that no range is torn.
const elementsAtOnce = 512

// kernel is our tables in this network namespace.
type kernel struct {
	nft      *nftsocket.Conn
	defs     []tableDef
	have     map[string]keys // by set, as far as is known
	there    map[nftables.TableFamily]bool
	noBridge error // why nftables cannot filter at bridges
}

func openKernel(device string) (*kernel, error) {
	nft, err := nftsocket.Open()
	if err != nil {
		return nil, err
	}
	return &kernel{nft: nft, defs: []tableDef{attachedDef(device), portsDef()}, have: map[string]keys{},
		there: map[nftables.TableFamily]bool{}}, nil
}

func (k *kernel) close() { k.nft.Close() }

func (d *tableDef) table() *nftables.Table { return &nftables.Table{Name: tableName, Family: d.family} }

// sync puts what is wanted in force; audit has it look at what is there first.
func (k *kernel) sync(want *desired, audit bool) error {
	for _, d := range k.defs {
		if d.family == nftables.TableFamilyBridge && k.noBridge != nil {
			continue
		}
		err := k.syncTable(&d, want, audit)
		if !unsupported(err) {
			if err != nil {
				return err
			}
			continue
		}
		if d.family != nftables.TableFamilyBridge {
			return &MissingFeatureError{"nftables with fib", "4.10",
				"modprobe nf_tables nft_fib_inet, or use a kernel with them: " + err.Error()}
		}
		k.noBridge = err
	}
	clear(want.new)
	return nil
}

func unsupported(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EPROTONOSUPPORT) ||
		errors.Is(err, unix.EAFNOSUPPORT)
}

// extend puts in force what one more workload asks for, whatever the number of
// the others.
func (k *kernel) extend(want *desired) error {
	for _, d := range k.defs {
		bridged := d.family == nftables.TableFamilyBridge
		if needed(&d, want) && !k.there[d.family] && (!bridged || k.noBridge == nil) {
			return k.sync(want, true)
		}
	}
	for _, d := range k.defs {
		if !k.there[d.family] {
			continue
		}
		for _, s := range d.sets {
			s.Table = d.table()
			if err := k.fill(&s, difference(want.new[s.Name], nil)); err != nil {
				return err
			}
		}
	}
	if err := k.nft.Flush(); err != nil {
		return k.sync(want, true)
	}
	for name, some := range want.new {
		if k.have[name] != nil {
			maps.Copy(k.have[name], some)
		}
	}
	clear(want.new)
	return nil
}

func (k *kernel) syncTable(d *tableDef, want *desired, audit bool) error {
	if audit {
		if err := k.look(d); err != nil {
			return err
		}
	}
	if !needed(d, want) {
		return k.drop(d)
	}
	if !k.there[d.family] {
		return k.make(d, want)
	}
	changes := false
	for _, s := range d.sets {
		s.Table = d.table()
		removed, added := difference(k.have[s.Name], want.sets[s.Name]), difference(want.sets[s.Name], k.have[s.Name])
		for some := range slices.Chunk(elements(&s, removed), elementsAtOnce) {
			if err := k.nft.SetDeleteElements(&s, some); err != nil {
				return err
			}
		}
		if err := k.fill(&s, added); err != nil {
			return err
		}
		changes = changes || len(removed) > 0 || len(added) > 0
	}
	if !changes {
		return nil
	}
	if err := k.nft.Flush(); err != nil {
		// Somebody changes it as well: make it anew.
		return k.make(d, want)
	}
	k.know(d, want)
	return nil
}

// needed reports whether a table has anything to police.
func needed(d *tableDef, want *desired) bool { return len(want.sets[d.sets[0].Name]) > 0 }

func (k *kernel) know(d *tableDef, want *desired) {
	k.there[d.family] = true
	for _, s := range d.sets {
		have := keys{}
		for key := range want.sets[s.Name] {
			have[key] = true
		}
		k.have[s.Name] = have
	}
}

func difference(a, b keys) (out []string) {
	for key := range a {
		if !b[key] {
			out = append(out, key)
		}
	}
	return out
}

// elements are the keys of a set; a range has two, its first address and the one
// behind its last.
func elements(s *nftables.Set, all []string) (out []nftables.SetElement) {
	for _, key := range all {
		if !s.Interval {
			out = append(out, nftables.SetElement{Key: []byte(key)})
			continue
		}
		last, _ := netip.AddrFromSlice([]byte(key[16:]))
		out = append(out, nftables.SetElement{Key: []byte(key[:16])},
			nftables.SetElement{Key: last.Next().AsSlice(), IntervalEnd: true})
	}
	return out
}

func (k *kernel) fill(s *nftables.Set, all []string) error {
	for some := range slices.Chunk(elements(s, all), elementsAtOnce) {
		if err := k.nft.SetAddElements(s, some); err != nil {
			return err
		}
	}
	return nil
}

// make makes a table anew, in one transaction.
func (k *kernel) make(d *tableDef, want *desired) error {
	table := k.nft.AddTable(d.table()) // adding before deleting makes deleting never fail
	k.nft.DelTable(table)
	k.nft.AddTable(table)
	for i, s := range d.sets {
		// The library would count sets of all connections in one variable, without a lock.
		s.Table, s.ID = table, uint32(i)+1
		if err := k.nft.AddSet(&s, nil); err != nil {
			return err
		}
		if err := k.fill(&s, difference(want.sets[s.Name], nil)); err != nil {
			return err
		}
	}
	chains := map[string]*nftables.Chain{}
	for _, c := range d.chains {
		c.Table = table
		chains[c.Name] = k.nft.AddChain(&c)
	}
	for _, r := range d.rules {
		k.nft.AddRule(&nftables.Rule{Table: table, Chain: chains[r.chain], Exprs: slices.Clone(r.exprs),
			UserData: userdata.AppendString(nil, userdata.TypeComment, r.text)})
	}
	if err := k.nft.Flush(); err != nil {
		return fmt.Errorf("make table natless-guard: %w", err)
	}
	k.know(d, want)
	return nil
}

// drop removes a table, where there is one.
func (k *kernel) drop(d *tableDef) error {
	if len(k.have[d.sets[0].Name]) == 0 {
		return nil
	}
	table := k.nft.AddTable(d.table())
	k.nft.DelTable(table)
	if err := k.nft.Flush(); err != nil && !unsupported(err) {
		return fmt.Errorf("remove table natless-guard: %w", err)
	}
	delete(k.there, d.family)
	for _, s := range d.sets {
		delete(k.have, s.Name)
	}
	return nil
}

// remove takes everything away.
func (k *kernel) remove() (err error) {
	for _, d := range k.defs {
		if look := k.look(&d); look != nil {
			err = errors.Join(err, look)
		} else {
			err = errors.Join(err, k.drop(&d))
		}
	}
	return err
}

// look reads what is there. A table with other rules than ours counts as none.
func (k *kernel) look(d *tableDef) error {
	return k.nft.Unchanged(func() error { return k.lookOnce(d) })
}

func (k *kernel) lookOnce(d *tableDef) error {
	delete(k.there, d.family)
	for _, s := range d.sets {
		delete(k.have, s.Name)
	}
	rules, err := readRules(k.nft.Conn, d.family)
	if err != nil || len(rules) == 0 {
		return err
	}
	k.have[d.sets[0].Name] = keys{"": true} // there is one
	if !sameRules(rules, d) {
		return nil
	}
	for _, s := range d.sets {
		s.Table = d.table()
		all, err := k.nft.GetSetElements(&s)
		if err != nil {
			return nil // a set is missing, or changes just now
		}
		k.have[s.Name] = keysOf(&s, all)
	}
	k.there[d.family] = true
	return nil
}

func sameRules(have []ruleDef, d *tableDef) bool {
	var want []ruleDef
	for _, c := range d.chains {
		for _, r := range d.rules {
			if r.chain == c.Name {
				want = append(want, r)
			}
		}
	}
	byChain := func(a, b ruleDef) int { return compare(a.chain, b.chain) }
	slices.SortStableFunc(have, byChain)
	slices.SortStableFunc(want, byChain)
	return text(have) == text(want)
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func keysOf(s *nftables.Set, all []nftables.SetElement) keys {
	out := keys{}
	if !s.Interval {
		for _, e := range all {
			out[string(e.Key)] = true
		}
		return out
	}
	slices.SortFunc(all, func(a, b nftables.SetElement) int {
		if c := compare(string(a.Key), string(b.Key)); c != 0 || a.IntervalEnd == b.IntervalEnd {
			return c
		}
		if a.IntervalEnd {
			return -1
		}
		return 1
	})
	var first []byte
	for _, e := range all {
		if !e.IntervalEnd {
			first = e.Key
		} else if end, ok := netip.AddrFromSlice(e.Key); ok && first != nil {
			out[string(first)+string(end.Prev().AsSlice())] = true
			first = nil
		}
	}
	return out
}

// readRules reads our table of a family; none, where there is none.
func readRules(c *nftables.Conn, family nftables.TableFamily) (out []ruleDef, err error) {
	chains, err := c.ListChainsOfTableFamily(family)
	if unsupported(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", err)
	}
	for _, chain := range chains {
		if chain.Table.Name != tableName {
			continue
		}
		rules, err := c.GetRules(chain.Table, chain)
		if errors.Is(err, unix.ENOENT) {
			return nil, nil // taken away just now; this does not show what the kernel lacks
		}
		if err != nil {
			return nil, fmt.Errorf("list nftables rules: %w", err)
		}
		for _, r := range rules {
			comment, _ := userdata.GetString(r.UserData, userdata.TypeComment)
			out = append(out, ruleDef{chain.Name, comment, r.Exprs})
		}
	}
	return out, nil
}

// Read gives how many packets were dropped, by cause, from the kernel of this
// thread's network namespace.
func Read() (map[string]uint64, error) {
	c, err := nftsocket.Open()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	out := map[string]uint64{}
	for _, family := range []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyBridge} {
		var rules []ruleDef
		err := c.Unchanged(func() (err error) {
			rules, err = readRules(c.Conn, family)
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, r := range rules {
			for _, e := range r.exprs {
				if counter, ok := e.(*expr.Counter); ok && causes[r.text] != "" {
					out[causes[r.text]] += counter.Packets
				}
			}
		}
	}
	return out, nil
}
