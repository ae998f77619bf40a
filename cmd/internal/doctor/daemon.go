package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"syscall"
	"time"

	"github.com/natless/natless/cmd/internal/words"
	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
)

// aheadBy is how far a clock may be off before it matters here.
const aheadBy = 2 * time.Second

func (v *visit) configuration() {
	const check = "config"
	switch {
	case v.Config == nil && errors.Is(v.ConfigError, fs.ErrNotExist) && !errors.As(v.ConfigError, new(config.Errors)): // not a file that it names
		v.fail(check, "write one, or name it with --config; reference.yaml explains every key", "there is no file at %s", v.ConfigPath)
	case v.Config == nil:
		v.fail(check, "correct the file; natlessd --check says the same", "%v", v.ConfigError)
	default:
		v.ok(check, "%s: nothing wrong", v.ConfigPath)
	}
}

// api asks the daemon how it is, which later checks build on.
func (v *visit) api() {
	const check = "api"
	status, err := v.Client.Status(v.ctx)
	if err != nil {
		v.apiError = err
		v.apiUnreachable(check, err)
		v.registry()
		return
	}
	v.status = &status
	if status.Version != v.Version {
		v.warn(check, "restart natlessd (systemctl restart natlessd), or run its own natless", "natlessd is version %s and this is %s",
			status.Version, v.Version)
	}
	if !status.Ready {
		v.warn(check, "wait a moment; if it stays so, see the lines below, and its log for what it waits for (journalctl -u natlessd)",
			"natlessd is starting, since %s", v.Now.Sub(status.Started).Truncate(time.Second))
	}
	v.configurationInForce(status)
	for _, c := range status.Checks {
		if v.ownFinding(c.Name) {
			continue
		}
		switch State(c.State) {
		case Warn:
			v.warn(c.Name, "natless status shows it; the daemon's log says more", "the daemon says: %s", c.Detail)
		case Fail:
			v.fail(c.Name, "natless status shows it; the daemon's log says more", "the daemon says: %s", c.Detail)
		}
	}
	if !status.Ready {
		return // nothing can be listed yet
	}
	if v.workloads, err = v.Client.List(v.ctx, api.Filter{}); err != nil {
		v.warn(check, "the daemon's log says more", "its workloads cannot be listed: %v", err)
	}
	if v.sound(check) {
		v.ok(check, "natlessd answers at %s: process %d, version %s", v.Client.Socket(), status.PID, status.Version)
	}
}

// ownFinding says whether the daemon speaks of what is looked at here as well: it is
// told once.
func (v *visit) ownFinding(check string) bool {
	if v.Config == nil {
		return false
	}
	switch l := v.link(v.Config.Uplink); check {
	case checkWayBack:
		return true
	case "uplink":
		return l == nil || !l.Up
	case "mtu":
		return l != nil && l.MTU < v.Config.MTU.IPv4
	}
	return false
}

func (v *visit) apiUnreachable(check string, err error) {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		v.fail(check, "start it (systemctl start natlessd), or name its api.socket with --socket",
			"natlessd is not running: no socket at %s", v.Client.Socket())
	case errors.Is(err, fs.ErrPermission), errors.Is(err, api.ErrForbidden):
		v.warn(check, "run it as root", "you may not ask natlessd: %v", err)
	case errors.Is(err, syscall.ECONNREFUSED):
		v.fail(check, "journalctl -u natlessd says why; start it again", "natlessd has died: nobody listens at %s", v.Client.Socket())
	default:
		v.silent(check, err)
	}
}

// silent: somebody listens, and has no answer of natlessd's.
func (v *visit) silent(check string, err error) {
	if wait := net.Error(nil); errors.As(err, &wait) && wait.Timeout() || errors.Is(err, context.DeadlineExceeded) {
		v.fail(check, "systemctl status natlessd shows whether it is alive", "natlessd does not answer: %v", err)
		return
	}
	socket := v.Client.Socket()
	v.fail(check, "is natlessd running already, of another version? \"ss -lxp src "+socket+"\" shows who it is; end it, or name another "+
		"path in api.socket", "api.socket %s: another process answers there, and not as natlessd does", socket)
}

// configurationInForce compares the file with what the daemon runs.
func (v *visit) configurationInForce(s api.Status) {
	const check = "reload"
	if s.Reload.Error != "" {
		v.warn(check, "correct the file, then run natless reload; until then the previous configuration is in force",
			"the last reload was refused: %s", s.Reload.Error)
		return
	}
	since := s.Started
	if s.Reload.At.After(since) {
		since = s.Reload.At
	}
	path := s.Config
	if modified := v.Host.Modified(path); modified > since.Unix() {
		v.warn(check, "run natless reload", "%s has changed since natlessd read it", path)
		return
	}
	v.ok(check, "what natlessd runs is what %s says", path)
}

func (v *visit) pools() {
	const check = "pool space"
	if v.status == nil || !v.status.Ready {
		return
	}
	pools, err := v.Client.Pools(v.ctx)
	if err != nil {
		v.warn(check, "the daemon's log says more", "the pools cannot be read: %v", err)
		return
	}
	for _, p := range pools {
		if !p.Drained.IsZero() {
			continue // it is to give nothing away, which is told
		}
		left := p.Ports - p.PortsUsed
		if p.Fleet && p.Headroom == 0 {
			v.fail(check, "does natless-fleet agent run here, and has the fleet's pool room (natless-fleet status)? containers wait until then",
				"pool %s has no share left for one more workload, and the fleet has lent it no more blocks (natless blocks)", p.Name)
			continue
		}
		more := "add addresses to it, or lower ports_per_workload for new workloads"
		if p.WholeAddress {
			more = "add addresses to it"
		}
		if p.Headroom == 0 {
			v.fail(check, more+", or delete workloads; containers wait until then",
				"pool %s has no share left for one more workload: %s", p.Name, fullWords(p))
			continue
		}
		if p.Ports > 0 && left*10 < p.Ports {
			v.warn(check, more, "pool %s has %d of %d ports left, room for %s",
				p.Name, left, p.Ports, words.Count(p.Headroom, "workload"))
		}
	}
	if v.sound(check) && len(pools) > 0 {
		v.ok(check, "%s, each with at least a tenth free", words.Count(len(pools), "pool"))
	}
}

// fullWords is where the ports of a pool are.
func fullWords(p api.Pool) string {
	text := fmt.Sprintf("%s have %d of %d ports", words.Count(p.Workloads, "workload"), p.PortsUsed, p.Ports)
	if p.PortsCooling > 0 {
		text += fmt.Sprintf(", %d cool down for up to %s", p.PortsCooling, time.Duration(p.CooldownSeconds*float64(time.Second)))
	}
	if p.PortsOfHost > 0 {
		text += fmt.Sprintf(", %d are in use by the host", p.PortsOfHost)
	}
	if n := p.Barred(); n > 0 {
		text += fmt.Sprintf(", %s held by others", words.Count(n, "address"))
	}
	return text
}

// minFree is what the registry needs to go on, generously.
const minFree = 64 << 20

func (v *visit) disk() {
	const check = "disk"
	if v.Config == nil {
		return
	}
	dir := filepath.Dir(v.Config.Registry.Path)
	free, err := v.Host.FreeSpace(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		v.ok(check, "natlessd creates %s at its first start", dir)
	case err != nil:
		v.unknown(check, err)
	case free < minFree:
		v.fail(check, "free some space: without it no workload gets an assignment", "%d MB left for the registry in %s", free>>20, dir)
	default:
		v.ok(check, "%d MB left for the registry in %s", free>>20, dir)
	}
}

// clock matters to whois, which answers for moments in the past, and to
// cooldowns.
func (v *visit) clock() {
	const check = "clock"
	synchronised, err := v.Host.Synchronised()
	switch {
	case v.Now.Year() < 2026:
		v.fail(check, "set it (timedatectl set-time, or start an NTP client)", "the clock says %s", v.Now.Format(time.DateOnly))
	case v.status != nil && v.status.Started.Sub(v.Now) > aheadBy:
		v.warn(check, "start an NTP client; whois will be wrong about the time in between",
			"the clock went back: natlessd started %s in the future", v.status.Started.Sub(v.Now).Truncate(time.Second))
	case err != nil:
		v.unknown(check, err)
	case !synchronised:
		v.warn(check, "start an NTP client (chrony, systemd-timesyncd): whois goes by this clock", "no NTP client keeps it right")
	default:
		v.ok(check, "it is synchronised")
	}
}
