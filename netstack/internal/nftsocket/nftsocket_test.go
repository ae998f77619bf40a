//go:build linux

package nftsocket

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/dump"
	"github.com/natless/natless/tests/netns"
)

func open(t *testing.T) *Conn {
	t.Helper()
	netns.Require(t, netns.Root)
	ns := netns.New(t, "x")
	var c *Conn
	var err error
	ns.Do(func() { c, err = Open() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// check sees that what is asked now is what is answered.
func check(t *testing.T, c *Conn, table string) {
	t.Helper()
	made := c.AddTable(&nftables.Table{Name: table, Family: nftables.TableFamilyINet})
	c.AddChain(&nftables.Chain{Name: "c", Table: made})
	if err := c.Flush(); err != nil {
		t.Errorf("make table %s: %v", table, err)
	}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil || len(chains) == 0 || chains[len(chains)-1].Table.Name != table {
		t.Errorf("chains behind table %s: %v, %v", table, chains, err)
	}
}

// TestInStep checks that neither more answers than the socket has room for, nor
// errors, have later questions get others' answers.
func TestInStep(t *testing.T) {
	t.Parallel()
	c := open(t)
	check(t, c, "a")
	room, err := c.netlink.ReadBuffer()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.netlink.SetReadBuffer(1 << 14); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		c.AddTable(&nftables.Table{Name: fmt.Sprint("many", i), Family: nftables.TableFamilyIPv4})
	}
	if err := c.Flush(); !errors.Is(err, unix.ENOBUFS) {
		t.Errorf("more answers than there is room for: %v", err)
	}
	if err := c.netlink.SetReadBuffer(room); err != nil {
		t.Fatal(err)
	}
	check(t, c, "b")
	for i := range 3 {
		c.DelTable(&nftables.Table{Name: fmt.Sprint("none", i), Family: nftables.TableFamilyINet})
	}
	if err := c.Flush(); !errors.Is(err, unix.ENOENT) {
		t.Errorf("delete what is not there: %v", err)
	}
	check(t, c, "c")
}

// TestManyAnswers: a transaction of thousands of messages is made.
func TestManyAnswers(t *testing.T) {
	t.Parallel()
	c := open(t)
	for i := range 2000 {
		c.AddTable(&nftables.Table{Name: fmt.Sprint("many", i), Family: nftables.TableFamilyIPv4})
	}
	if err := c.Flush(); err != nil {
		t.Error(err)
	}
}

// What is read while somebody else changes rules is read again.
func TestUnchanged(t *testing.T) {
	t.Parallel()
	c := open(t)
	check(t, c, "a")
	reads := 0
	err := c.Unchanged(func() error {
		if reads++; reads < 3 {
			check(t, c, fmt.Sprint("b", reads))
		}
		return nil
	})
	if err != nil || reads != 3 {
		t.Errorf("%v after %d reads", err, reads)
	}
	check(t, c, "c")
	err = c.Unchanged(func() error { check(t, c, "d"); return nil })
	if !errors.Is(err, dump.ErrInterrupted) {
		t.Errorf("changed each time: %v", err)
	}
}
