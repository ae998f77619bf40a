package crash

import (
	"net/netip"
	"testing"
)

// The judge condemns what is wrong, and nothing that is right.
func TestJudge(t *testing.T) {
	t.Parallel()
	at := func(ports string) share { return share{netip.MustParseAddr("192.0.2.1"), ports} }
	a, b, in, whole := at("1024-2047"), at("2048-4095"), at("80,1500-1600"), at("all")
	elsewhere := share{netip.MustParseAddr("192.0.2.2"), "all"}
	all := func(shares ...share) event {
		e := event{what: found, all: map[int]share{}}
		for i, s := range shares {
			if s != (share{}) {
				e.all[i] = s
			}
		}
		return e
	}
	put := func(key int, s share) []event {
		return []event{{key: key, what: putting}, {key: key, what: given, got: s}}
	}
	join := func(parts ...[]event) (h []event) {
		for _, p := range parts {
			h = append(h, p...)
		}
		return h
	}
	one := func(e ...event) []event { return e }
	for name, c := range map[string]struct {
		history []event
		wrong   int
	}{
		"nothing":                            {nil, 0},
		"two shares":                         {join(put(0, a), put(1, b), one(all(a, b))), 0},
		"the same share elsewhere":           {join(put(0, whole), put(1, elsewhere), one(all(whole, elsewhere))), 0},
		"an acknowledged share is gone":      {join(put(0, a), put(1, b), one(all(a))), 1},
		"all are gone":                       {join(put(0, a), put(1, b), one(all())), 2},
		"another share than was told":        {join(put(0, a), one(all(b))), 1},
		"found twice":                        {join(put(0, a), put(1, b), one(all(a, a))), 2},
		"found twice, never told":            {one(all(a, in)), 4}, // neither was asked for, and both ways
		"given what somebody has":            {join(put(0, a), put(1, a)), 1},
		"given a part of it":                 {join(put(0, a), put(1, in)), 1},
		"given all of the address":           {join(put(0, a), put(1, whole)), 1},
		"given what was given back":          {join(put(0, a), one(event{key: 0, what: deleting}, event{key: 0, what: deleted}), put(1, a), one(all(share{}, a))), 0},
		"given what is being given back":     {join(put(0, a), one(event{key: 0, what: deleting}), put(1, a)), 0},
		"a deletion came back":               {join(put(0, a), one(event{key: 0, what: deleting}, event{key: 0, what: deleted}, all(a))), 1},
		"a lost put that happened":           {one(event{key: 0, what: putting}, event{key: 0, what: lost}, all(a)), 0},
		"a lost put that did not":            {one(event{key: 0, what: putting}, event{key: 0, what: lost}, all()), 0},
		"a lost deletion that happened":      {join(put(0, a), one(event{key: 0, what: deleting}, event{key: 0, what: lost}, all())), 0},
		"a lost deletion that did not":       {join(put(0, a), one(event{key: 0, what: deleting}, event{key: 0, what: lost}, all(a))), 0},
		"a lost deletion gives another":      {join(put(0, a), one(event{key: 0, what: deleting}, event{key: 0, what: lost}, all(b))), 1},
		"refused, and nothing changed":       {join(put(0, a), one(event{key: 0, what: putting}, event{key: 0, what: refused}, all(a))), 0},
		"refused, and it changed":            {join(put(0, a), one(event{key: 0, what: deleting}, event{key: 0, what: refused}, all())), 1},
		"it changed between two looks":       {join(put(0, a), one(all(a), all())), 1},
		"what a lost put left stays":         {one(event{key: 0, what: putting}, event{key: 0, what: lost}, all(a), all(a)), 0},
		"what a lost put left goes":          {one(event{key: 0, what: putting}, event{key: 0, what: lost}, all(a), all()), 1},
		"what nobody asked for":              {one(all(a)), 1},
		"a lost put takes another's":         {join(put(1, a), one(event{key: 0, what: putting}, event{key: 0, what: lost}, all(a, a))), 1},
		"single ports beside each other":     {join(put(0, at("80")), put(1, at("81,443")), one(all(at("80"), at("81,443")))), 0},
		"the same single port among several": {join(put(0, at("80,1024-2047")), put(1, at("80,2048-4095"))), 1},
	} {
		wrong := judge(c.history)
		if c.wrong == 0 && len(wrong) != 0 || c.wrong > 0 && len(wrong) == 0 {
			t.Errorf("%s: %d complaints are due, got %q", name, c.wrong, wrong)
		}
	}
}
