//go:build linux

package fastpath

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/cilium/ebpf"
)

// XDP is the program in front of traffic control, and the maps that only it has. It goes
// by the tables of the others, and passes on to them what it does not translate.
type XDP struct {
	// Program is for interfaces whose driver runs it by itself (native XDP).
	Program *ebpf.Program
	// Err says why the kernel does not take it. The others go on by themselves.
	Err  error
	maps xdpOwn
}

// xdpOwn are the maps that are no other program's.
type xdpOwn struct{ links, taken *ebpf.Map }

// What the program and its maps are pinned as.
const xdpProgramName = "program_xdp"

var xdpPins = []string{xdpProgramName, xdpMapLinks, xdpMapTaken}

// InFront has a program in front of traffic control, too.
func InFront() Option { return func(f *FastPath) { f.XDP = &XDP{} } }

// Link is an interface where packets are translated in front of traffic control.
type Link struct {
	MAC       [6]byte // what comes in for another is not for this host
	From4     bool    // IPv4 for workloads comes in there
	From6     bool    // IPv6 of workloads does
	Sends     bool    // it takes frames of programs
	SendsLong bool    // also those in several pieces
}

// The flags of a link in the map.
const (
	linkFrom4 = 1 << iota
	linkFrom6
	linkSends
	linkSendsLong
)

func (l *Link) encode() (e xdpLink) {
	e.Mac = l.MAC
	for flag, on := range map[uint16]bool{linkFrom4: l.From4, linkFrom6: l.From6, linkSends: l.Sends, linkSendsLong: l.SendsLong} {
		if on {
			e.Flags |= flag
		}
	}
	return e
}

// SetLinks says which interfaces there are, by their index, and no others.
func (x *XDP) SetLinks(all map[int]Link) error {
	if x.Err != nil {
		return x.Err
	}
	var gone []uint32
	var key uint32
	var e xdpLink
	for have := x.maps.links.Iterate(); have.Next(&key, &e); {
		if _, there := all[int(key)]; !there {
			gone = append(gone, key)
		}
	}
	var errs []error
	for _, key := range gone {
		if err := x.maps.links.Delete(key); !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, err)
		}
	}
	for i, l := range all {
		e := l.encode()
		errs = append(errs, x.maps.links.Put(uint32(i), &e))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("interfaces of XDP: %w", err)
	}
	return nil
}

// XDPReason is a Reason, or one that only XDP has to pass a packet on.
type XDPReason uint8

// NumXDPReasons is how many there are.
const NumXDPReasons = XDPReason(xdpXdpReasonNUM_XDP_REASONS)

var xdpReasonNames = [...]string{
	0: "no-neighbour", // from NO_NEIGHBOUR on, which comes behind the last Reason
	xdpXdpReasonNO_LINK - xdpXdpReasonNO_NEIGHBOUR: "no-link",
	xdpXdpReasonLIMITED - xdpXdpReasonNO_NEIGHBOUR: "limited",
}

func (r XDPReason) String() string {
	switch {
	case r < XDPReason(NumReasons):
		return Reason(r).String()
	case r < NumXDPReasons:
		return xdpReasonNames[r-XDPReason(NumReasons)]
	}
	return fmt.Sprintf("reason-%d", uint8(r))
}

// Taken is what became of packets in front of traffic control: 4→6 and 6→4, by reason. What
// is passed on there is counted once more where it goes; what is translated is among
// Counters, too.
type Taken [2][NumXDPReasons]Count

// Taken sums up what the CPUs have counted.
func (x *XDP) Taken() (t Taken, err error) {
	if x == nil || x.Err != nil || x.maps.taken == nil {
		return t, nil
	}
	err = eachCPU(x.maps.taken, 2*uint32(NumXDPReasons), func(i uint32, perCPU []programCount) {
		n := &t[i/uint32(NumXDPReasons)][i%uint32(NumXDPReasons)]
		for _, cpu := range perCPU {
			n.Packets += cpu.Packets
			n.Bytes += cpu.Bytes
		}
	})
	if err != nil {
		return t, fmt.Errorf("counters of XDP: %w", err)
	}
	return t, nil
}

// load loads the program on top of the maps of the others.
func (x *XDP) load(f *FastPath) {
	spec, err := loadXdp()
	if err == nil {
		err = x.loadSpec(f, spec, nil)
	}
	x.Err = err
}

func (x *XDP) loadSpec(f *FastPath, spec *ebpf.CollectionSpec, more map[string]*ebpf.Map) error {
	if f.itemising != nil {
		if err := spec.Variables[xdpVarItemising].Set(f.itemising.sample); err != nil {
			return fmt.Errorf("load XDP: %w", err)
		}
	}
	shared := map[string]*ebpf.Map{}
	for _, all := range []map[string]*ebpf.Map{f.maps.byName(), f.Policer(), more} {
		for name, m := range all {
			if spec.Maps[name] != nil {
				shared[name] = m
			}
		}
	}
	spec.Programs[xdpProgXdp].Name = programName("xdp", f.device)
	var objects struct {
		Program *ebpf.Program `ebpf:"xdp"`
		Links   *ebpf.Map     `ebpf:"links"`
		Taken   *ebpf.Map     `ebpf:"taken"`
	}
	if err := spec.LoadAndAssign(&objects, &ebpf.CollectionOptions{MapReplacements: shared}); err != nil {
		return fmt.Errorf("load XDP: %w", err)
	}
	x.Program, x.maps = objects.Program, xdpOwn{objects.Links, objects.Taken}
	return nil
}

// reuse takes what an earlier daemon of the same build has pinned.
func (x *XDP) reuse(dir string) (err error) {
	defer func() {
		if err != nil {
			_ = x.close()
		}
	}()
	if x.Program, err = ebpf.LoadPinnedProgram(filepath.Join(dir, xdpProgramName), nil); err != nil {
		x.Program = nil
		return err
	}
	for name, m := range x.byName() {
		if *m, err = ebpf.LoadPinnedMap(filepath.Join(dir, name), nil); err != nil {
			*m = nil
			return err
		}
	}
	return nil
}

func (x *XDP) byName() map[string]**ebpf.Map {
	return map[string]**ebpf.Map{xdpMapLinks: &x.maps.links, xdpMapTaken: &x.maps.taken}
}

func (x *XDP) pin(dir string) error {
	if x.Err != nil {
		return nil
	}
	for name, m := range x.byName() {
		if err := (*m).Pin(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return x.Program.Pin(filepath.Join(dir, xdpProgramName))
}

// close lets go of program and maps, as far as they are there.
func (x *XDP) close() error {
	if x == nil {
		return nil
	}
	var errs []error
	if x.Program != nil {
		errs = append(errs, x.Program.Close())
		x.Program = nil
	}
	for _, m := range x.byName() {
		if *m != nil {
			errs = append(errs, (*m).Close())
			*m = nil
		}
	}
	return errors.Join(errs...)
}
