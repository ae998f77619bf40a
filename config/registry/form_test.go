package registry

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/lease"
	testlayout "github.com/natless/natless/tests/layout"
	"github.com/natless/natless/translator/ports"
	bolt "go.etcd.io/bbolt"
)

// TestForm: what lies in the file, and beside it, has another form only under another
// Layout.
func TestForm(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "r.db")
	now := time.Unix(1_700_000_000, 123).UTC()
	write := func(f func(tx *bolt.Tx) error) {
		t.Helper()
		db, err := bolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if err := change(db, f); err != nil {
			t.Fatal(err)
		}
	}
	write(blank)
	write(func(tx *bolt.Tx) error {
		for i, a := range everyKind(t, now) {
			serial, err := nextSerial(tx)
			if a.Serial = serial; err != nil {
				return err
			}
			if err := putAssignment(tx, a); err != nil {
				return err
			}
			if i > 0 && i < 7 {
				continue
			}
			ended := *a
			ended.Until, ended.Address = now.Add(time.Hour), netip.MustParseAddr("192.0.2.9")
			if err := putCooling(tx, &cooled{Assignment: &ended, until: now.Add(2 * time.Hour)}); err != nil {
				return err
			}
			if _, err := putHistory(tx, &ended, 10); err != nil {
				return err
			}
		}
		return nil
	})
	form := contentOf(t, path) + beside(t, path, now)
	testlayout.Hold(t, "testdata/layout.txt", layout, form)

	r, err := Open(Options{Path: path, History: 10, Now: func() time.Time { return now }}) // which would not open what it does not know
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
}

// everyKind is an assignment of each kind of record; the last has everything that one
// can have.
func everyKind(t *testing.T, now time.Time) (all []*Assignment) {
	t.Helper()
	for n := range 4 {
		for _, host := range []string{"", "veth1"} {
			i := len(all)
			a := &Assignment{Succeeds: 9, Key: key(i), Pool: "p", Address: netip.MustParseAddr("192.0.2.2"), Since: now, size: 1024,
				Ports: ports.MustParse(fmt.Sprintf("%d-%d", 1024*(i+1), 1024*(i+1)+1023)), Request: request(i)}
			a.Request.HostInterface = host
			if n > 0 {
				a.inside, a.Request.Inside = 0xc0000205, api.IPv4Inside
			}
			if n > 1 {
				a.Request.Labels = map[string]string{"app": "web", "tier": "back"}
			}
			all = append(all, a)
		}
	}
	full := all[len(all)-1]
	q := &full.Request
	q.Name, q.Network, q.Netns, q.Pool, q.Ports = "n/p", "w", "/run/netns/x", "p", 1000
	q.Address, q.ExtraPorts, q.IPv6 = full.Address, []uint16{443}, append(q.IPv6, request(77).IPv6...)
	full.Ports = ports.MustParse("443,30720-31743")
	for _, v := range []reflect.Value{reflect.ValueOf(*q), reflect.ValueOf(*full)} {
		for i := range v.NumField() {
			if name := v.Type().Field(i).Name; v.Field(i).IsZero() && !slices.Contains([]string{"Serial", "Until", "held"}, name) {
				t.Errorf("%s.%s is new: give it a value here, so that its form is held, too", v.Type().Name(), name)
			}
		}
	}
	return all
}

// contentOf is all that is in a database, but for the number of the change, which says
// how often it was written.
func contentOf(t *testing.T, path string) string {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var out strings.Builder
	err = db.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
			fmt.Fprintf(&out, "bucket %s, last number %d\n", name, b.Sequence())
			return b.ForEach(func(k, v []byte) error {
				if string(k) == string(keyChange) {
					if binary.BigEndian.Uint64(v) == 0 {
						t.Error("a change without a number")
					}
					v = append([]byte("NUMBER.."), v[8:]...)
				}
				fmt.Fprintf(&out, "\t%q\n\t\t%x\n", k, v)
				return nil
			})
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// beside are the files beside a database, as they are written.
func beside(t *testing.T, path string, now time.Time) string {
	t.Helper()
	state := lease.State{Boot: "b", Epoch: 7,
		Blocks:   []api.Block{{Pool: "p", IPv4: netip.MustParsePrefix("192.0.2.4/32"), Lease: 4, Draining: true}},
		Returned: []api.ReturnedBlock{{IPv4: netip.MustParsePrefix("192.0.2.5/32"), Lease: 3}}}
	if err := writeBlocks(path, state); err != nil {
		t.Fatal(err)
	}
	relay := lease.NewRelay("b", 7,
		[]api.Rule{{IPv4: netip.MustParsePrefix("192.0.2.6/32"), Ports: ports.MustParse("0-1023"), IPv6: netip.MustParsePrefix("2001:db8::6/128"), Lease: 5}},
		[]lease.Ended{{IPv4: netip.MustParsePrefix("192.0.2.7/32"), Ports: ports.MustParse("0-1023"), Lease: 6}})
	if err := writeSummed(relayPath(path), relay, "registry: relay"); err != nil { // which a change is appended to: TestRelayForm
		t.Fatal(err)
	}
	if err := (drains{wholeHost: now, "p": now}).write(path); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	list, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	var endings []string
	for _, e := range list {
		if ending := strings.TrimPrefix(e.Name(), filepath.Base(path)); ending != "" {
			endings = append(endings, ending)
			data, err := os.ReadFile(filepath.Join(filepath.Dir(path), e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&out, "file *%s\n%s", ending, data)
		}
	}
	if known := besides(t); !slices.Equal(endings, known) {
		t.Errorf("written are files *%v, and the source has %v: write those that are new here, so that their form is held, too", endings, known)
	}
	return out.String()
}

// besides are the endings of files beside a database, by the source; the marker has
// nothing in it that is read.
func besides(t *testing.T) (endings []string) {
	t.Helper()
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range sources {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^func \w+\(path string\) string \{ return path \+ "(\.\w+)" \}`).FindAllStringSubmatch(string(text), -1) {
			if m[1] != ".exists" {
				endings = append(endings, m[1])
			}
		}
	}
	slices.Sort(endings)
	return endings
}
