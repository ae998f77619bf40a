package config

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"

	"github.com/natless/natless/translator/mapping"
)

const (
	// maxRoutes bounds the kernel routes that explicit mappings take.
	maxRoutes = 4096
	// breath is after how many lines others come first who have something to do.
	breath = 512
	// maxFileErrors bounds what is said of one file of mappings.
	maxFileErrors = 10
	// sample is how many mappings of a file show what the rest will be like.
	sample = 10_000
)

// explicit is the explicit mappings, wherever they were written.
type explicit struct {
	table   *mapping.Table
	mapped4 []netip.Prefix
	shared  bool // some have ports
}

// gatherer puts explicit mappings into a table as they are read, so that a
// million of them are nowhere else.
type gatherer struct {
	validator
	edit    *mapping.Edit
	mapped  blocks
	shared  bool
	pending []collision
}

// collision is an error that waits for the place of the other mapping: places
// are not remembered, but looked for when they are needed.
type collision struct {
	Error
	*mapping.Collision
}

func (v validator) explicitMappings() {
	prefix := v.Prefix
	if mapping.ValidatePrefix(prefix) != nil {
		prefix = netip.Prefix{} // which was told
	}
	table, err := mapping.New(prefix, nil)
	if err != nil {
		v.fail("mappings", err)
		return
	}
	g := gatherer{validator: v, edit: table.Edit()}
	g.list()
	for i, path := range v.MappingsFile {
		if slices.Contains(v.MappingsFile[:i], path) {
			v.fail(v.fileKey(i), fmt.Errorf("%s is there twice", path))
		} else if err := g.file(path); err != nil {
			v.fail(v.fileKey(i), err)
		}
	}
	g.locate()
	v.mappedBlocks()
	v.explicit = &explicit{g.edit.Table(), g.blocks(), g.shared}
}

func (v validator) fileKey(i int) string {
	if len(v.MappingsFile) == 1 {
		return "mappings_file"
	}
	return fmt.Sprintf("mappings_file[%d]", i)
}

// list takes the mappings of the configuration itself.
func (g *gatherer) list() {
	for i, m := range g.Mappings {
		key := fmt.Sprintf("mappings[%d]", i)
		switch {
		case !m.IPv6.IsValid():
			g.fail(key+".ipv6", errors.New("missing"))
		case !m.IPv4.IsValid():
			g.fail(key+".ipv4", errors.New("missing"))
		default:
			g.insert(m.translated(), Error{Key: key})
			g.check(!m.IPv6.Contains(g.Addresses.IPv6), key+".ipv6", "%s covers addresses.ipv6, which is the translator's own", m.IPv6)
			g.check(!m.IPv4.Contains(g.Addresses.IPv4), key+".ipv4", "%s covers addresses.ipv4, which is the translator's own", m.IPv4)
		}
	}
}

// file takes the mappings of a file. An error is about the file as a whole.
func (g *gatherer) file(path string) error {
	f, err := openRegular(path)
	if err != nil {
		return err
	}
	defer f.Close()
	before, err := f.Stat()
	if err != nil {
		return err
	}
	r, wrong := newMappingReader(f), 0
	lines := func(yield func(mappingLine) bool) {
		for seen := 1; r.next(); seen++ {
			if seen%breath == 0 {
				runtime.Gosched()
			}
			if seen == sample {
				g.edit.Expect(int(before.Size() / max(r.read/sample, 1)))
			}
			if !yield(r.mappingLine) {
				return
			}
		}
	}
	for l := range mapping.Ahead(g.edit, lines, func(l mappingLine) mapping.Mapping { return l.m }) {
		if wrong += g.line(l, path); wrong >= maxFileErrors {
			g.report(Error{File: path, Line: l.line, Err: fmt.Errorf("here reading ended: more than %d errors", maxFileErrors-1)})
			return nil
		}
	}
	if r.err != nil {
		return fmt.Errorf("%s: %w", path, r.err)
	}
	if after, err := f.Stat(); err != nil || after.Size() != before.Size() || !after.ModTime().Equal(before.ModTime()) {
		return fmt.Errorf("%s was written to while it was read: write another file and rename it over this one", path)
	}
	return nil
}

// openRegular opens a file that can be read again, and at once.
func openRegular(path string) (*os.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	return os.Open(path)
}

// line takes a line of a file and says how many errors were in it.
func (g *gatherer) line(r mappingLine, path string) (wrong int) {
	at := Error{File: path, Line: r.line}
	refuse := func(err error) { at.Err = err; g.report(at); wrong++ }
	if r.bad != nil {
		refuse(r.bad)
		return wrong
	}
	if !g.insert(r.m, at) {
		return 1
	}
	if r.m.IPv6.Contains(g.Addresses.IPv6) {
		refuse(fmt.Errorf("%s covers addresses.ipv6 (%s), which is the translator's own", r.m.IPv6, g.Addresses.IPv6))
	}
	if r.m.IPv4.Contains(g.Addresses.IPv4) {
		refuse(fmt.Errorf("%s covers addresses.ipv4 (%s), which is the translator's own", r.m.IPv4, g.Addresses.IPv4))
	}
	for i, p := range g.Pools {
		if p.IPv4.Prefix.IsValid() && p.IPv4.Prefix.Overlaps(r.m.IPv4) {
			refuse(fmt.Errorf("%s overlaps pools[%d] (%s), from which workloads are served", r.m.IPv4, i, p.IPv4))
		}
	}
	return wrong
}

// insert puts m into the table, or reports at its place why it cannot be there.
func (g *gatherer) insert(m mapping.Mapping, at Error) bool {
	err := g.edit.Insert(m)
	if c, ok := errors.AsType[*mapping.Collision](err); ok {
		g.pending = append(g.pending, collision{at, c})
		return false
	}
	if err != nil {
		at.Err = err
		g.report(at)
		return false
	}
	if g.Relay.overlaps(m.IPv4) {
		at.Err = fmt.Errorf("%s overlaps relay.ipv4, whose rules the fleet tells", m.IPv4)
		g.report(at)
		return false
	}
	for _, p := range []netip.Prefix{m.IPv4, m.IPv6} {
		if key, found := g.MAP.overlaps(p); found {
			at.Err = fmt.Errorf("%s overlaps %s, whose addresses CEs have by arithmetic", p, key)
			g.report(at)
			return false
		}
	}
	g.mapped.add(m.IPv4)
	g.shared = g.shared || !m.Ports.IsZero()
	return true
}

// locate reports the collisions, each with the place of the other mapping.
func (g *gatherer) locate() {
	if g.pending == nil {
		return
	}
	type pair struct{ six, four netip.Prefix } // which no other mapping in the table has
	where := map[pair]string{}
	for _, c := range g.pending {
		where[pair{c.With.IPv6, c.With.IPv4}] = ""
	}
	note := func(m mapping.Mapping, place string) {
		if known, sought := where[pair{m.IPv6, m.IPv4}]; sought && known == "" {
			where[pair{m.IPv6, m.IPv4}] = place
		}
	}
	for i, m := range g.Mappings {
		note(m.translated(), fmt.Sprintf("mappings[%d]", i))
	}
	for _, path := range g.MappingsFile {
		f, err := openRegular(path)
		if err != nil {
			continue
		}
		for r := newMappingReader(f); r.next(); {
			if r.bad == nil {
				note(r.m, fmt.Sprintf("%s:%d", path, r.line))
			}
		}
		f.Close()
	}
	for _, c := range g.pending {
		e := c.Error
		e.Err = c.Collision
		if place := where[pair{c.With.IPv6, c.With.IPv4}]; place != "" {
			e.Err = fmt.Errorf("%w, which is %s", e.Err, place)
		}
		g.report(e)
	}
}

func (v validator) mappedBlocks() {
	for i, p := range v.MappedBlocks {
		v.check(p.IsValid() && p.Addr().Is4() && p.Bits() > 0 && usable(p), fmt.Sprintf("mapped_blocks[%d]", i),
			"%s is not an IPv4 prefix that hosts may have", p)
	}
}

// blocks are what must be brought here for the mappings' sake, each by a route
// of its own.
func (g *gatherer) blocks() []netip.Prefix {
	whole := blocks(nil)
	for _, p := range slices.Concat(g.MappedBlocks, g.Relay.IPv4, g.MAP.addresses4()) {
		if p.IsValid() && p.Addr().Is4() {
			whole.add(p)
		}
	}
	all := append(whole, g.mapped...).prefixes()
	if n := len(all); n > maxRoutes {
		key := "mappings"
		if len(g.MappingsFile) > 0 {
			key = "mappings_file"
		}
		g.fail(key, fmt.Errorf("the IPv4 addresses lie so scattered that %d routes would bring them here, and %d are the limit: "+
			"name the blocks in which they lie under mapped_blocks, to have these brought here whole", n, maxRoutes))
	}
	return all
}
