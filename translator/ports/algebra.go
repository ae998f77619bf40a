package ports

// Union has the ports that are in s or in o.
func (s Set) Union(o Set) Set { return combine(s, o, inFirst|inSecond|inBoth) }

// Intersect has the ports that are in s and in o.
func (s Set) Intersect(o Set) Set { return combine(s, o, inBoth) }

// Subtract has the ports that are in s and not in o.
func (s Set) Subtract(o Set) Set { return combine(s, o, inFirst) }

// Complement has the ports that are not in s.
func (s Set) Complement() Set { return combine(s, Set{}, inNeither) }

// Where a port of two sets can be. A combination is of some of them.
const (
	inNeither = 1 << iota
	inFirst
	inSecond
	inBoth
)

// combine has the ports that are where wanted says. It goes from each port where
// something changes to the next.
func combine(a, b Set, wanted int) (out Set) {
	for port, next := 0, 0; port < Count; port = next {
		var inA, inB int
		inA, a.runs, next = a.at(port)
		var nextB int
		inB, b.runs, nextB = b.at(port)
		next = min(next, nextB)
		if wanted>>(inA|inB<<1)&1 == 0 {
			continue
		}
		if n := len(out.runs); n > 0 && int(out.runs[n-1].Last)+1 == port {
			out.runs[n-1].Last = uint16(next - 1)
		} else {
			out.runs = append(out.runs, Range{uint16(port), uint16(next - 1)})
		}
	}
	return out
}

// at says whether port is in s, as 0 or 1; the runs that do not end before it;
// and the next port where it is otherwise.
func (s Set) at(port int) (in int, rest []Range, next int) {
	rest = s.runs
	for len(rest) > 0 && int(rest[0].Last) < port {
		rest = rest[1:]
	}
	switch {
	case len(rest) == 0:
		return 0, nil, Count
	case int(rest[0].First) <= port:
		return 1, rest, int(rest[0].Last) + 1
	}
	return 0, rest, int(rest[0].First)
}
