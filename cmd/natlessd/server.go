//go:build linux

package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/natless/natless/cmd/internal/confine"
	"github.com/natless/natless/cmd/internal/web"
	"github.com/natless/natless/config"
	apiserver "github.com/natless/natless/config/api/server"
	"github.com/natless/natless/netstack/dataplane"
	"github.com/natless/natless/netstack/gro"
	"github.com/natless/natless/netstack/guard"
	"github.com/natless/natless/netstack/local"
	"github.com/natless/natless/netstack/monitor"
	"github.com/natless/natless/netstack/route"
	"github.com/natless/natless/netstack/tun"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// task is everything that runs. Run returns nil when ctx ends it; Ready is
// closed when the task does what it is there for.
type task interface {
	Run(ctx context.Context) error
	Ready() <-chan struct{}
}

// server is what the tasks share.
type server struct {
	needs      confine.Needs
	log        *slog.Logger
	settle     func() // when all is ready: starting took more memory than running does
	key        [16]byte
	workloads  *workloads
	translator *translator.Translator
	guard      *guard.Manager
	routes     *route.Manager
	uplink     string // the configuration's, or the bridge that it is a port of
	fastPath   *fastPath
	dataplane  *dataplane.Dataplane
	local      *local.Stack
	api        *apiserver.Server // these two are set before anything runs
	web        *web.Server       // nil: off
	hub        *monitor.Hub
	gro        *gro.Task
	diversion  diversion
	taken      atomic.Pointer[route.Taken] // by others on the host's links
	inUse      atomic.Pointer[route.InUse]
	desired    atomic.Pointer[route.Desired] // of the kernel, now
	othersNAT  othersNAT
}

func newServer(c *config.Config, settle func(), handover bool, log *slog.Logger) (*server, error) {
	s := &server{settle: settle, needs: needs(c), log: log, uplink: uplinkOf(c, log)}
	var err error
	if s.key, err = secret(c); err != nil {
		return nil, err
	}
	pools, err := registryPools(c, route.UplinkAddr)
	if err != nil {
		return nil, err
	}
	var table *mapping.Table
	if s.workloads, table, err = openWorkloads(c, pools, log); err != nil {
		return nil, err
	}
	if err := s.refuseHeld(c); err != nil {
		return nil, err
	}
	s.workloads.assigned = func(a netip.Addr) { s.routes.Assigned(a) }
	reach := s.workloads.reach(pools, s.workloads.Outside())
	if s.translator, err = translator.New(s.translation(c, reach), table); err != nil {
		return nil, err
	}
	if err := s.openGuard(c, handover); err != nil {
		return nil, err
	}
	s.routes, err = route.New(route.Config{
		Device: c.Device.Name, ManageSysctls: c.ManageSysctls, SysctlDir: c.SysctlDir, Leave: handover, Log: log,
		StateDir: filepath.Dir(c.API.Socket), // which a reboot empties, and no other daemon has
		Assigned: s.assigned, InUse: s.noteInUse,
	})
	if err != nil {
		return nil, err
	}
	s.workloads.serve(s.translator, s.routes.Look)
	if err := s.setRoutes(s.wanted(c, reach)); err != nil {
		return nil, err
	}
	if s.local, err = local.New(s.localConfig(c)); err != nil {
		return nil, err
	}
	if s.fastPath, err = openFastPath(c, handover, s); err != nil {
		return nil, err
	}
	s.workloads.fastPath = s.fastPath
	s.diversion.pause, s.diversion.interfaces = s.fastPath.diverts()
	device := tun.Config{Name: c.Device.Name, Queues: queues(c), Patience: devicePatience}
	s.dataplane = dataplane.New(dataplane.Config{
		Translator: s.translator, Local: s.local, Log: log,
		Open:       opener(device, handover, log),
		PerMapping: c.Metrics.CountsWorkloads(),
	})
	s.gro = gro.New(gro.Config{Interfaces: c.UDPGRO, Log: log})
	s.hub = newHub(c, s.translator, s.dataplane)
	s.openAccounts(c)
	return s, nil
}

// tasks are in the order in which they may end, the last first.
func (s *server) tasks() []task {
	tasks := []task{s.dataplane, s.guard, following{s.routes, []<-chan struct{}{s.dataplane.Ready(), s.guard.Ready()}}}
	tasks = append(tasks, s.fastPath.tasks()...)
	return append(tasks, s.local, s.workloads, s.gro)
}

// run runs the tasks until ctx is done or one of them fails. Either ends all,
// the last first, each after the one that follows it: routes go before the
// device that they point at.
func (s *server) run(ctx context.Context, tasks []task) error {
	group, ctx := errgroup.WithContext(ctx)
	end := ctx
	for _, t := range slices.Backward(tasks) {
		own := end
		after, ended := context.WithCancel(context.Background())
		group.Go(func() error {
			defer ended()
			err := t.Run(own)
			if err != nil { // at once: until all have ended may take long, and this is why
				s.log.Error("a task has failed, natlessd ends", "task", nameOf(t), "error", err)
			}
			return err
		})
		end = after
	}
	group.Go(func() error { s.announce(ctx, tasks); return nil })
	return group.Wait()
}

// sayAfter is how long a start may take before it is said what it waits for, and
// how often that is said then.
const sayAfter = 5 * time.Second

// announce tells the world when every task is ready, and when they end.
func (s *server) announce(ctx context.Context, tasks []task) {
	late := time.NewTicker(sayAfter)
	defer late.Stop()
	for waiting := unready(tasks); len(waiting) > 0; {
		select {
		case <-waiting[0].Ready():
			waiting = waiting[1:]
		case <-late.C:
			waiting = unready(waiting)
			s.log.Warn("natlessd is not ready yet", "waits_for", namesOf(waiting))
		case <-ctx.Done():
			return
		}
	}
	s.settle()
	s.confine()
	s.log.Info("natlessd is ready", "mappings", s.translator.Table().Len())
	notify(s.log, "READY=1")
	<-ctx.Done()
	notify(s.log, "STOPPING=1")
}

// unready are the tasks that are not ready.
func unready(tasks []task) (waiting []task) {
	for _, t := range tasks {
		select {
		case <-t.Ready():
		default:
			waiting = append(waiting, t)
		}
	}
	return waiting
}

// nameOf is what a task is called in the log: its package, or what it is here.
func nameOf(t task) string {
	if f, ok := t.(following); ok {
		t = f.task
	}
	return strings.TrimPrefix(strings.TrimPrefix(fmt.Sprintf("%T", t), "*"), "main.")
}

func namesOf(tasks []task) string {
	names := make([]string, len(tasks))
	for i, t := range tasks {
		names[i] = nameOf(t)
	}
	return strings.Join(names, ", ")
}

// devicePatience is how long the device may be somebody else's at the start. That
// one is dying: who lives has the registry, too, and we would not have come this
// far. Its threads must all get a processor to die, and closing its queues waits
// for whatever else changes links, seconds on a machine with much to do.
const devicePatience = 10 * time.Second

// translation is how a configuration translates.
func (s *server) translation(c *config.Config, r reach) translator.Config {
	t := c.Translator(s.key)
	t.Host4 = r.host.Addr
	t.Pools4 = s.pools4(c, r.kept)
	return t
}

// setRoutes has the kernel do what is desired.
func (s *server) setRoutes(d route.Desired) error {
	err := s.routes.Set(d)
	if err == nil {
		s.desired.Store(&d)
		s.othersNAT.forget()
	}
	return err
}

// wanted is desired, with the uplink that is in use.
func (s *server) wanted(c *config.Config, r reach) route.Desired {
	d := desired(c, r)
	d.Uplink = s.uplink
	return d
}

// desired is what the kernel should do by a configuration.
func desired(c *config.Config, r reach) route.Desired {
	d := route.Desired{
		MTU: c.Device.MTU, Uplink: c.Uplink, Prefix: c.Prefix,
		IPv4: c.Addresses.IPv4, IPv6: c.Addresses.IPv6,
		ICMPSource4: c.ICMPSourcePool.IPv4, ICMPSource6: c.ICMPSourcePool.IPv6,
		Mapped4:  slices.Concat(c.Mapped4(), r.kept),
		HostPool: r.host, AntiSpoofing: true,
	}
	for _, p := range r.pools {
		if !p.Uplink {
			d.Mapped4 = append(d.Mapped4, p.IPv4)
		}
	}
	return d
}

// queues is how many queues the device has.
func queues(c *config.Config) int {
	if c.Device.Queues == config.AutoQueues {
		return tun.AutoQueues()
	}
	return int(c.Device.Queues)
}

// secret authenticates the trailers of echo requests on shared addresses. It
// outlives the process, so that replies to pings from before a restart are
// known, and lies beside the registry. Where nothing is shared no file is needed;
// one that is there may be that of workloads whose pools are gone.
func secret(c *config.Config) (key [16]byte, err error) {
	if len(c.Pools) == 0 && !c.Shared() && !config.HasKey(c.Registry.Path) {
		rand.Read(key[:])
		return key, nil
	}
	key, err = config.Key(c.Registry.Path)
	if err != nil {
		return key, fmt.Errorf("secret key: %w: make the directory of registry.path writable", err)
	}
	return key, nil
}
