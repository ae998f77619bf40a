//go:build linux

// Package daemon is natlessd but for its command line: it makes an engine's state of
// the configuration and what the registry assigned, follows reloads and changes of
// the host, and says how things stand. How packets are translated and how the kernel
// is told may not enter here: package engine does both.
package daemon

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/natless/natless/cmd/internal/confine"
	"github.com/natless/natless/cmd/internal/systemd"
	"github.com/natless/natless/cmd/internal/web"
	"github.com/natless/natless/config"
	"github.com/natless/natless/config/lease"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/netstack/accounting"
	"github.com/natless/natless/netstack/engine"
	"github.com/natless/natless/netstack/local"
	"github.com/natless/natless/netstack/local/dns64"
	"github.com/natless/natless/netstack/route"
	"github.com/natless/natless/netstack/shed"
	"github.com/natless/natless/netstack/tun"
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/policy"
)

// Options are what a daemon is started with, besides its configuration.
type Options struct {
	Version  string
	Path     string // of the configuration
	Handover bool   // all that is in the kernel stays for a successor
	Settle   func() // called when all is ready; see Spare
	Level    *slog.LevelVar
	Hangup   <-chan os.Signal // asks for a reload
	Log      *slog.Logger
}

// Daemon is a natlessd.
type Daemon struct {
	Options
	needs     confine.Needs
	started   time.Time
	keeper    *keeper
	host      *engine.Host
	reloader  *reloader
	api       *apiTask
	web       *web.Server // nil: off
	accounts  *accounting.Accounting
	counted   bool // packets, by workload
	othersNAT othersNAT
	engine    policyEngine
	recorder  *recorder
	wishing   wishing
	firstUse  *firstUse
	rules     *policy.Ledger // knows the rules that packets were denied by
}

// New makes a daemon, which does nothing before Run.
func New(c *config.Config, o Options) (*Daemon, error) {
	defer keepAll()() // of what a start makes, hardly anything goes again
	d := &Daemon{Options: o, needs: needs(c), started: time.Now()}
	h := host{uplink: uplinkOf(c.Uplink, o.Log), own: ownAddress, held: newPolicies()}
	for _, wrong := range uplinkChecks(c) {
		o.Log.Error(wrong.Detail)
	}
	for _, name := range c.Uplinks {
		h.others = append(h.others, uplinkOf(name, o.Log))
	}
	d.rules = h.held.ledger
	var err error
	if h.key, err = secret(c); err != nil {
		return nil, err
	}
	pools, err := Pools(c, route.UplinkAddr)
	if err != nil {
		return nil, err
	}
	var table *mapping.Table
	h.boot = bootID()
	lent := func(pools []registry.Pool, s lease.State) ([]registry.Pool, error) { return lend(c, pools, s, h.boot) }
	if d.keeper, table, err = openKeeper(c, pools, lent, o.Log); err != nil {
		return nil, err
	}
	h.relay = newRelay(c, d.keeper.Relay, h.boot)
	if table, err = h.relay.with(c, table); err != nil {
		return nil, err
	}
	h.metric = h.relay.metric(c) // what a predecessor served stays while this one begins
	if pools, err = lent(pools, d.keeper.Blocks()); err != nil {
		return nil, err
	}
	if h.inside = c.Inside.Device; h.inside == "" && d.keeper.Insiders().All > 0 {
		h.inside = config.InsideDevice // who has it keeps it
	}
	if h.taken, err = heldAddresses(c); err != nil {
		return nil, err
	}
	d.keeper.Bar(h.taken)
	state, err := stateOf(c, pools, d.keeper.Outside(), h)
	if err != nil {
		return nil, err
	}
	if table, state.Translator.Policy, err = d.keeper.hold(table, state.Translator.Policy); err != nil {
		return nil, err
	}
	d.firstUse = newFirstUse(d.keeper, func() *config.Config { return d.reloader.running() }, o.Log)
	if d.host, err = engine.Open(d.engineOptions(c, h, state), state, table, d.keeper.workloads()); err != nil {
		return nil, err
	}
	d.counted = c.Metrics.CountsWorkloads()
	d.firstUse.serve(d.host)
	d.keeper.first = d.firstUse
	d.keeper.serve(d.host.Engine, d.noInside)
	d.accounts = d.host.Account(c.Metrics.MaxWorkloads, d.keeper.owners)
	if d.recorder, err = newRecorder(d, c); err != nil {
		return nil, err
	}
	d.reloader = newReloader(c, d, h)
	d.keeper.wish = d.wish
	d.reloader.wishes = d.wishes
	d.reloader.wish = func(p netip.Prefix, want shed.Wish) { d.wishing.set(d.host.Shed, p, want) }
	d.wishes(c)
	if d.api, err = newAPI(d, c); err != nil {
		return nil, err
	}
	d.web = newWeb(d, c)
	return d, nil
}

func (d *Daemon) engineOptions(c *config.Config, h host, state *engine.State) engine.Options {
	device := tun.Config{Name: c.Device.Name, Queues: queues(c), Sparse: queues(c) <= mostSparse, Patience: devicePatience}
	left := systemd.Stored(queuesName, insideQueuesName)
	device.Adopt = left[queuesName]
	var openInside func() (*tun.Device, error)
	if state.Inside.Device != "" {
		tap := device
		tap.Name, tap.TAP, tap.Adopt = state.Inside.Device, true, left[insideQueuesName]
		openInside = opener(tap, insideQueuesName, d.Handover, d.Log)
	} else if fds := left[insideQueuesName]; fds != nil {
		closeAll(fds)
		if err := systemd.Forget(insideQueuesName, len(fds)); err != nil {
			d.Log.Debug("queues of IPv4 inside that nobody needs", "error", err)
		}
	}
	return engine.Options{
		Open: opener(device, queuesName, d.Handover, d.Log), OpenInside: openInside, Inside: state.Inside.Device,
		Device: c.Device.Name, Queues: queues(c), Uplink: h.uplink, Uplinks: h.uplinks(), Fabric: c.Fabric, XDP: c.XDP,
		ManageSysctls: c.ManageSysctls, SysctlDir: c.SysctlDir, StateDir: filepath.Dir(c.API.Socket), Leave: d.Handover,
		FastPath: fastPathModes[c.FastPath], GRO: c.UDPGRO, Local: d.localConfig(c), PerMapping: c.Metrics.CountsWorkloads(),
		Subjects: d.keeper.subjects, FirstUse: d.firstUse.offer, Flows: c.Flows.Enabled, NoShedding: !c.Shedding.Enabled, FlowSample: int(c.Flows.Sample), InUse: d.keeper.noteInUse, Log: d.Log,
	}
}

// localConfig is what the stack behind the translator's own addresses runs.
func (d *Daemon) localConfig(c *config.Config) local.Config {
	l := local.Config{IPv4: c.Addresses.IPv4, IPv6: c.Addresses.IPv6, HealthPort: c.Health.Port, Ready: d.healthy}
	if c.DNS64.Enabled {
		l.DNS64 = &dns64.Config{Upstreams: c.DNS64.Upstreams, Exclude: c.DNS64.Exclude, Cache: c.DNS64.Cache, Clients: c.DNS64.Clients}
		if c.DNS64.Cache == 0 {
			l.DNS64.Cache = -1 // none, where dns64 takes 0 for its default
		}
	}
	return l
}

// tasks are those without which no packet is translated.
func (d *Daemon) tasks() []engine.Task {
	return append(d.host.Tasks(), engine.Task{Name: "registry", Runner: d.keeper})
}

// Run runs until ctx is done, or something fails that no waiting can cure.
func (d *Daemon) Run(ctx context.Context) error {
	var tasks []engine.Task
	if d.web != nil {
		tasks = append(tasks, engine.Task{Name: "web", Runner: d.web})
	}
	tasks = append(tasks, d.recorder.tasks()...)
	tasks = append(tasks, engine.Task{Name: "first use", Runner: d.firstUse})
	watchdog, err := newWatchdog(d)
	if err != nil {
		return err
	}
	tasks = append(append(tasks, d.tasks()...), engine.Task{Name: "api", Runner: d.api},
		engine.Task{Name: "reloader", Runner: d.reloader}, engine.Task{Name: "watchdog", Runner: watchdog})
	if c := d.reloader.running(); c.Relay.Enabled() {
		tasks = append(tasks, engine.Task{Name: "relay", Runner: &announcer{Daemon: d}})
	}
	return runTasks(ctx, d.Log, tasks, d.announce)
}

// announce tells the world that every task is ready, and when they end.
func (d *Daemon) announce(ctx context.Context) {
	if err := confine.Confine(d.needs); err != nil {
		d.Log.Warn("natlessd runs with more rights than it needs", "error", err)
	}
	d.Log.Info("natlessd is ready", "mappings", d.host.Table().Len())
	notify(d.Log, "READY=1")
	d.Settle()
	<-ctx.Done()
	notify(d.Log, "STOPPING=1")
}

// notify tells systemd, if it started us.
func notify(log *slog.Logger, state string) {
	if _, err := systemd.Notify(state); err != nil {
		log.Debug("notify systemd", "state", state, "error", err)
	}
}

// healthy is what /readyz says: nil when packets are translated, and should come here.
func (d *Daemon) healthy() error {
	if err := d.translates(); err != nil {
		return err
	}
	return d.relayUnready()
}

// translates is nil when packets are translated.
func (d *Daemon) translates() error {
	if waiting := unready(d.tasks()); len(waiting) > 0 {
		if why := d.host.FastPath.Insufficient(); why != nil && waiting[0].Name == engine.FastPathTask {
			return why
		}
		return fmt.Errorf("not ready: %s", namesOf(waiting))
	}
	return d.host.Healthy()
}

func (d *Daemon) ready() bool { return len(unready(d.tasks())) == 0 }

// devicePatience is how long the device may be somebody else's at the start. That
// one is dying: who lives has the registry, too, and we would not have come this
// far. Its threads must all get a processor to die, and closing its queues waits
// for whatever else changes links, seconds on a machine with much to do.
const devicePatience = 10 * time.Second

// uplinkOf is the interface toward IPv4. At a port of a bridge nothing arrives
// that is for this host: the bridge itself has the addresses and answers.
func uplinkOf(name string, log *slog.Logger) string {
	bridge, err := route.BridgeOf(name)
	if err != nil || bridge == "" {
		return name
	}
	log.Warn("the uplink is a port of a bridge, which is used in its stead", "uplink", name, "bridge", bridge)
	return bridge
}

// uplinks are all interfaces toward IPv4 that were named.
func (h host) uplinks() []string {
	if h.uplink == "" {
		return h.others
	}
	return append([]string{h.uplink}, h.others...)
}

// heldAddresses reads what others hold on the host's links, and refuses a
// configuration that cannot work there. While the daemon runs the links may
// change: then it only warns, see (*Daemon).held.
func heldAddresses(c *config.Config) (route.Taken, error) {
	taken, err := route.ReadTaken(c.Device.Name)
	if err == nil {
		err = c.Unusable(taken)
	}
	return taken, err
}

// secret authenticates the trailers of echo requests on shared addresses. It
// outlives the process, so that replies to pings from before a restart are
// known, and lies beside the registry. Where nothing is shared no file is needed;
// one that is there may be that of workloads whose pools are gone.
func secret(c *config.Config) (key [16]byte, err error) {
	if len(c.Pools) == 0 && !c.Shared() && len(c.MAP.Rules) == 0 && !config.HasKey(c.Registry.Path) {
		rand.Read(key[:])
		return key, nil
	}
	key, err = config.Key(c.Registry.Path)
	if err != nil {
		return key, fmt.Errorf("secret key: %w: make the directory of registry.path writable", err)
	}
	return key, nil
}

// NewLog makes the log that a configuration asks for.
func NewLog(c config.Log, level *slog.LevelVar, w io.Writer) *slog.Logger {
	level.Set(c.Level.Level())
	options := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}
