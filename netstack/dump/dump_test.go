//go:build linux

package dump

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	mdl "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/tests/netns"
)

var errOther = errors.New("other")

// A list that is interrupted is asked for again, and in the end an error, never
// the half that came with it.
func TestWhole(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		interrupted int // times
		err         error
		want        []int
		asked       int
	}{
		"at once":       {0, nil, []int{1, 2}, 1},
		"at the third":  {2, nil, []int{1, 2}, 3},
		"at the last":   {tries - 1, nil, []int{1, 2}, tries},
		"never":         {tries, nil, nil, tries},
		"another error": {1, errOther, nil, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asked := 0
			list := func() ([]int, error) {
				if asked++; asked <= c.interrupted {
					return []int{1}, fmt.Errorf("wrapped: %w", netlink.ErrDumpInterrupted)
				}
				return []int{1, 2}, c.err
			}
			got, err := Whole(list)
			if !slices.Equal(got, c.want) || asked != c.asked || (err == nil) != (c.want != nil) {
				t.Errorf("%v, %v, asked %d times", got, err, asked)
			}
			if c.err == nil && err != nil && !errors.Is(err, ErrInterrupted) || c.err != nil && !errors.Is(err, c.err) {
				t.Errorf("%v", err)
			}
		})
	}
}

// answers are those of a socket, one after the other.
type answers [][]mdl.Message

func (a *answers) Execute(mdl.Message) ([]mdl.Message, error) {
	next := (*a)[0]
	*a = (*a)[1:]
	return next, nil
}

func TestMessages(t *testing.T) {
	t.Parallel()
	half := []mdl.Message{{Data: []byte{1}}, {Header: mdl.Header{Flags: mdl.Multi | mdl.DumpInterrupted}}}
	whole := []mdl.Message{{Data: []byte{1}}, {Data: []byte{2}}, {Data: []byte{3}}}
	if got, err := Messages(&answers{half, whole}, mdl.Message{}); len(got) != 3 || err != nil {
		t.Errorf("%v, %v", got, err)
	}
	never := slices.Repeat(answers{half}, tries)
	if got, err := Messages(&never, mdl.Message{}); got != nil || !errors.Is(err, ErrInterrupted) {
		t.Errorf("%v, %v", got, err)
	}
}

func TestUnchanged(t *testing.T) {
	t.Parallel()
	generations := []uint32{1, 2, 2, 2} // changed during the first read
	generation := func() (uint32, error) {
		g := generations[0]
		generations = generations[1:]
		return g, nil
	}
	reads := 0
	err := Unchanged(generation, func() error {
		if reads++; reads == 1 {
			return errOther // it has gone meanwhile
		}
		return nil
	})
	if err != nil || reads != 2 {
		t.Errorf("%v after %d reads", err, reads)
	}
	steady := func() (uint32, error) { return 7, nil }
	if err := Unchanged(steady, func() error { return errOther }); !errors.Is(err, errOther) {
		t.Errorf("an error of a read's own: %v", err)
	}
	moving := uint32(0)
	always := func() (uint32, error) { moving++; return moving, nil }
	if err := Unchanged(always, func() error { return nil }); !errors.Is(err, ErrInterrupted) {
		t.Errorf("%v", err)
	}
	if err := Unchanged(func() (uint32, error) { return 0, errOther }, func() error { return nil }); !errors.Is(err, errOther) {
		t.Errorf("no generation: %v", err)
	}
}

// The kernel itself, while somebody changes what is listed: what comes is whole,
// or an error comes.
func TestKernelThatChanges(t *testing.T) {
	netns.Require(t, netns.Root)
	ns := netns.New(t, "x")
	ns.IP("link set lo up")
	var lines strings.Builder
	const routes = 1000
	for i := range routes {
		fmt.Fprintf(&lines, "route add 10.%d.%d.0/24 dev lo table 77\n", i>>8, i&255)
	}
	batch := exec.Command("ip", "netns", "exec", ns.Name, "ip", "-batch", "-")
	batch.Stdin = strings.NewReader(lines.String())
	if out, err := batch.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var handle, changer *netlink.Handle
	var err error
	ns.Do(func() {
		if handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err == nil {
			changer, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer handle.Close()
	var stop atomic.Bool
	ended := make(chan bool)
	go func() {
		defer close(ended)
		defer changer.Close()
		dst := netlink.NewIPNet([]byte{203, 0, 113, 1})
		for !stop.Load() {
			r := &netlink.Route{LinkIndex: 1, Dst: dst, Table: 78, Scope: unix.RT_SCOPE_LINK}
			changer.RouteReplace(r)
			changer.RouteDel(r)
		}
	}()
	for range 4 {
		all, err := Whole(func() ([]netlink.Route, error) {
			return handle.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: 77}, netlink.RT_FILTER_TABLE)
		})
		if err == nil && len(all) != routes || err != nil && (all != nil || !errors.Is(err, ErrInterrupted)) {
			t.Errorf("%d routes, %v", len(all), err)
		}
	}
	stop.Store(true)
	<-ended
}
