package conformance

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/tests/generate"
	"github.com/natless/natless/translator"
)

// shrunk repeats an episode that failed and tells the least that fails alike, as
// a file for testdata/found.
func shrunk(w generate.World, seed, number uint64) string {
	e := newEpisodes(mustPair(w))
	e.record = true
	d, _ := e.run(seed, number, nil).(*difference)
	if d == nil {
		return "it cannot be repeated: it depends on other episodes"
	}
	list := slices.Clone(e.recorded)
	s := shrinker{w, d.kind}
	if !s.fails(list) {
		return "it cannot be repeated on its own\n" + d.text
	}
	list = s.sequence(list)
	s.bytes(list)
	return "shrunk to a file for testdata/found:\n" + encode(w, list) + replay(w, list).Error()
}

// mustPair is newPair where no test is at hand: the worlds have been made before.
func mustPair(w generate.World) *pair { return newPair(&testing.T{}, w) }

type shrinker struct {
	world generate.World
	kind  string
}

func (s shrinker) fails(list []packetAt) bool {
	d := replay(s.world, list)
	return d != nil && d.kind == s.kind
}

// replay gives packets to a new pair. It tells the first difference.
func replay(w generate.World, list []packetAt) *difference {
	p := mustPair(w)
	for _, in := range list {
		p.setTime(1 + in.at)
		r, err := p.check(in.Packet)
		if err == nil {
			err = p.judge(in.Packet, r)
		}
		if err != nil {
			return err.(*difference)
		}
	}
	return nil
}

// sequence leaves out packets before the last.
func (s shrinker) sequence(list []packetAt) []packetAt {
	for n := len(list) - 1; n > 0; n /= 2 {
		for at := 0; at+n < len(list); {
			if less := slices.Delete(slices.Clone(list), at, at+n); s.fails(less) {
				list = less
			} else {
				at += n
			}
		}
	}
	return list
}

// bytes makes packets shorter and bytes zero.
func (s shrinker) bytes(list []packetAt) {
	for i := range list {
		p := &list[i]
		try := func(b []byte) bool {
			was := p.Bytes
			if p.Bytes = b; s.fails(list) {
				return true
			}
			p.Bytes = was
			return false
		}
		for n := len(p.Bytes) / 2; n > 0; {
			if len(p.Bytes) <= n || !try(p.Bytes[:len(p.Bytes)-n]) {
				n /= 2
			}
		}
		for at := range min(len(p.Bytes), 200) {
			if p.Bytes[at] != 0 {
				b := slices.Clone(p.Bytes)
				b[at] = 0
				if !try(b) {
					generate.Repair(b)
					try(b)
				}
			}
		}
		if was := p.Offload; was != (translator.Offload{}) {
			if p.Offload = (translator.Offload{}); !s.fails(list) {
				p.Offload = was
			}
		}
	}
}

// encode writes packets down: the world, then when each one comes, its offloads,
// its bytes, and the workload that sent it as IPv4, if one did.
func encode(w generate.World, list []packetAt) string {
	var b strings.Builder
	fmt.Fprintf(&b, "world %s\n", w.Name)
	for _, p := range list {
		o := p.Offload
		fmt.Fprintf(&b, "%v %d,%d,%d,%d,%d,%d %s", time.Duration(p.at), o.Flags, o.GSOType, o.HdrLen, o.GSOSize, o.CsumStart,
			o.CsumOffset, hex.EncodeToString(p.Bytes))
		if p.From.IsValid() {
			fmt.Fprintf(&b, " %v", p.From)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// decode is the inverse of encode.
func decode(text string) (world string, list []packetAt, err error) {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	world, ok := strings.CutPrefix(lines[0], "world ")
	if !ok {
		return "", nil, fmt.Errorf("the first line names no world")
	}
	for _, line := range lines[1:] {
		if strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.Fields(line)
		if len(f) != 3 && len(f) != 4 {
			return "", nil, fmt.Errorf("%q: not a time, offloads, bytes and perhaps a sender", line)
		}
		var p packetAt
		if len(f) == 4 {
			if p.From, err = netip.ParsePrefix(f[3]); err != nil {
				return "", nil, err
			}
		}
		at, err := time.ParseDuration(f[0])
		if err != nil {
			return "", nil, err
		}
		o := &p.Offload
		if _, err = fmt.Sscanf(f[1], "%d,%d,%d,%d,%d,%d", &o.Flags, &o.GSOType, &o.HdrLen, &o.GSOSize, &o.CsumStart, &o.CsumOffset); err != nil {
			return "", nil, err
		}
		b, err := hex.DecodeString(f[2])
		if err != nil {
			return "", nil, err
		}
		p.at, p.Bytes = int64(at), b
		list = append(list, p)
	}
	return world, list, nil
}
