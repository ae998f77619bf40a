package registry

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/natless/natless/translator/ports"
	bolt "go.etcd.io/bbolt"
)

// crashChild makes TestMain the process that is killed: its value is the path
// of the database.
const crashChild = "NATLESS_REGISTRY_CRASH_CHILD"

func TestMain(m *testing.M) {
	if path := os.Getenv(crashChild); path != "" {
		beKilled(path)
		return
	}
	if path := os.Getenv(moveChild); path != "" {
		beKilledMoving(path)
		return
	}
	os.Exit(m.Run())
}

var crashPools = []Pool{shared("198.51.100.0/28", 256), {Name: "dedicated", IPv4: netip.MustParsePrefix("203.0.113.0/26"), Whole: true, Cooldown: time.Minute}}

// beKilled puts and deletes from several goroutines, each with its own
// workloads, and prints a line before each call and another when it returned.
func beKilled(path string) {
	r, err := Open(Options{Path: path, History: 50, Pools: crashPools})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(os.Getpid()), uint64(g)))
			for {
				n := g*100 + rnd.IntN(50)
				if rnd.IntN(3) == 0 {
					os.Stdout.WriteString(fmt.Sprintf("deleting %d\n", n))
					err := r.Delete(ctx, key(n))
					os.Stdout.WriteString(fmt.Sprintf("deleted %d %v\n", n, err))
					continue
				}
				q := request(n)
				if rnd.IntN(5) == 0 {
					q.Pool = "dedicated"
				}
				q.Ports = 64 << rnd.IntN(4)
				os.Stdout.WriteString(fmt.Sprintf("putting %d\n", n))
				if a, err := r.Put(ctx, key(n), q); err == nil {
					os.Stdout.WriteString(fmt.Sprintf("has %d %s\n", n, a.words()))
				} else {
					os.Stdout.WriteString(fmt.Sprintf("refused %d %v\n", n, err))
				}
			}
		})
	}
	wg.Wait()
}

// TestKill kills a process that assigns, at random points and again and again,
// and looks what the next one finds: all that was acknowledged, and nothing
// twice. What was under way may have happened or not.
func TestKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.db")
	rnd := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	acknowledged := map[int]string{} // "" when it has nothing
	kills, acks := 60, 0
	if testing.Short() {
		kills = 10
	}
	for kill := range kills {
		doubtful, n := killOnce(t, path, time.Duration(rnd.IntN(60_000))*time.Microsecond, acknowledged)
		acks += n
		r, err := Open(Options{Path: path, History: 50, Pools: crashPools})
		if err != nil {
			t.Fatalf("after kill %d: %v", kill, err)
		}
		checkSurvivors(t, kill, r, acknowledged, doubtful)
		for n := range doubtful { // from now on it is what the disk says
			acknowledged[n] = ""
			if a, err := r.Get(key(n)); err == nil {
				acknowledged[n] = a.words()
			}
		}
		r.Close()
	}
	t.Logf("%d kills, %d acknowledged changes", kills, acks)
	if acks < kills {
		t.Error("too few changes to prove anything")
	}
}

// killOnce runs a child until it has been at work for the time given, and
// notes what it acknowledged. doubtful are workloads with a call under way.
func killOnce(t *testing.T, path string, after time.Duration, acknowledged map[int]string) (doubtful map[int]bool, acks int) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashChild+"="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	doubtful = map[int]bool{}
	var timer *time.Timer
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if timer == nil {
			timer = time.AfterFunc(after, func() { cmd.Process.Kill() })
		}
		what, rest, _ := strings.Cut(lines.Text(), " ")
		var n int
		if _, err := fmt.Sscan(rest, &n); err != nil {
			t.Fatalf("child: %s", lines.Text())
		}
		_, words, _ := strings.Cut(rest, " ")
		switch what {
		case "putting", "deleting":
			doubtful[n] = true
			continue
		case "has":
			acknowledged[n] = words
		case "deleted":
			acknowledged[n] = ""
		}
		acks++
		delete(doubtful, n)
	}
	cmd.Wait()
	return doubtful, acks
}

func checkSurvivors(t *testing.T, kill int, r *Registry, acknowledged map[int]string, doubtful map[int]bool) {
	t.Helper()
	for n, want := range acknowledged {
		if doubtful[n] {
			continue
		}
		got := ""
		if a, err := r.Get(key(n)); err == nil {
			got = a.words()
		}
		if got != want {
			t.Fatalf("after kill %d workload %d has %q, was told %q", kill, n, got, want)
		}
	}
	taken := map[netip.Addr]*ports.Bitmap{}
	for _, a := range r.All() {
		if taken[a.Address] == nil {
			taken[a.Address] = new(ports.Bitmap)
		}
		set := a.Ports
		if set.IsZero() {
			set = ports.All()
		}
		for p := range set.Runs() {
			if taken[a.Address].OverlapsRange(p) {
				t.Fatalf("after kill %d two have ports %v of %s, one is %s", kill, p, a.Address, a.Key)
			}
			taken[a.Address].Add(p)
		}
	}
	if err := r.Delete(ctx, key(99999)); err == nil {
		t.Fatal("deleted what never was")
	}
}

// moveChild makes TestMain the process that moves what an uplink pool has, and moves
// it back: its value is the path of the database.
const moveChild = "NATLESS_REGISTRY_MOVE_CHILD"

func beKilledMoving(path string) {
	failpoint = "NATLESS_FAILPOINT"
	r, err := Open(Options{Path: path, History: 50, Pools: movePools("192.0.2.1")})
	var p *Plan
	if err == nil {
		p, err = r.Plan(movePools("192.0.2.9"), 50)
	}
	if err == nil {
		_, err = p.Move()
	}
	if err == nil {
		err = p.Back()
	}
	fmt.Println("not killed:", err)
}

func movePools(host string) []Pool {
	return []Pool{uplink("host", host, ports.MustParse("10240-60000")), shared("198.51.100.8/31", 1024)}
}

// TestKilledMoving kills a process at each moment of a move to another address of the
// uplink: all have moved, or nobody has.
func TestKilledMoving(t *testing.T) {
	t.Parallel()
	for moment, want := range map[string]string{"registry: move": "192.0.2.1", "registry: moved": "192.0.2.9", "registry: back": "192.0.2.9"} {
		path := filepath.Join(t.TempDir(), "r.db")
		r, err := Open(Options{Path: path, History: 50, Pools: movePools("192.0.2.1")})
		if err != nil {
			t.Fatal(err)
		}
		for n := range 20 {
			q := request(n)
			if n%2 == 0 {
				q.Pool = "host"
			}
			mustPut(t, r, n, q)
		}
		r.Close()
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), moveChild+"="+path, "NATLESS_FAILPOINT="+moment)
		if out, err := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != -1 {
			t.Fatalf("%s: %v\n%s", moment, err, out)
		}
		if _, err := Check(path); err != nil {
			t.Errorf("%s: %v", moment, err)
		}
		db, err := openFile(path, true)
		if err != nil {
			t.Fatalf("%s: %v", moment, err)
		}
		db.View(func(tx *bolt.Tx) error {
			return loadAll(tx, func(a *Assignment) error {
				if a.Pool == "host" && a.Address.String() != want {
					t.Errorf("%s: %s has %v on disk, want %s for all", moment, a.Key, a.Address, want)
				}
				return nil
			}, func(*cooled) error { return nil })
		})
		db.Close()
		for _, address := range []string{want, "192.0.2.9"} { // as it is, and as the next start makes it
			if r, err = Open(Options{Path: path, History: 50, Pools: movePools(address)}); err != nil {
				t.Fatalf("%s: %v", moment, err)
			}
			for n := range 20 {
				if a, err := r.Get(key(n)); err != nil || n%2 == 0 && a.Address.String() != address {
					t.Errorf("%s: %d has %v, %v; want %s", moment, n, a, err, address)
				}
			}
			if got := len(r.Outside()); got > 0 {
				t.Errorf("%s: %d are outside", moment, got)
			}
			r.Close()
		}
	}
}
