package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"github.com/natless/natless/cmd/internal/portlimits"
	"github.com/natless/natless/cmd/internal/words"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/translator/ports"
)

// maxContainers bounds how many network namespaces are entered.
const maxContainers = 1000

const checkContainers = "containers"

// container is the workloads in one network namespace, whose kernel has one
// range of ports for all of them.
type container struct {
	netns     string
	name      string
	workloads []api.Workload
}

// containersOf gathers workloads by their namespaces.
func containersOf(all []api.Workload) (some []*container) {
	known := map[string]*container{}
	for _, w := range all {
		if w.Request.Netns == "" {
			continue
		}
		c := known[w.Request.Netns]
		if c == nil {
			c = &container{netns: w.Request.Netns, name: w.Request.Name}
			if c.name == "" {
				c.name = w.Key.String()
			}
			known[c.netns] = c
			some = append(some, c)
		}
		c.workloads = append(c.workloads, w)
	}
	return some
}

// containers looks into the containers, at what the plugin made there.
func (v *visit) containers() {
	some := containersOf(v.workloads)
	seen := 0
	for _, c := range some[:min(len(some), maxContainers)] {
		err := errors.Join(v.portLimits(c), v.source(c))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue // it has just ended
		case err != nil:
			v.unknown(checkContainers, fmt.Errorf("%s: %w", c.name, err))
			return
		}
		seen++
	}
	if v.sound(checkContainers) && seen > 0 {
		v.ok(checkContainers, "%d, each keeping to its ports and sending from the address that is mapped", seen)
	}
}

// portLimits: an own --sysctl of a container's is applied after the plugin's and
// overrides it, and connections from other ports fail.
func (v *visit) portLimits(c *container) error {
	var sets []ports.Set
	violations := uint64(0)
	for _, w := range c.workloads {
		sets = append(sets, w.Ports)
		violations += w.Violations
	}
	limits, ok := portlimits.Common(sets...)
	if !ok {
		v.warn(checkContainers, "natless-cni in one of its networks only, or one more address in the pool",
			"%s has shares with no ports in common, and a kernel with one range of ports for all its interfaces: some of its "+
				"connections are refused", c.name)
		return nil
	}
	if limits.IsZero() {
		return nil
	}
	read, err := v.Host.PortLimits(c.netns)
	if err != nil {
		return err
	}
	changed, err := portlimits.Overridden(limits, read)
	switch {
	case err != nil:
		return err
	case changed != nil:
		v.warn(checkContainers, "take the sysctl out of the container's own settings", "%s picks ports that are not its own: %v", c.name,
			changed)
	case violations > 0:
		v.warn(checkContainers, "natless monitor --workload shows which; programs that choose their own source port must stay in the set",
			"%s sent %s, which were refused", c.name, words.Count(violations, "packet from ports outside its set"))
	}
	return nil
}

// source: a kernel that sends from another address than the one that is mapped
// has every connection refused.
func (v *visit) source(c *container) error {
	inside := slices.ContainsFunc(c.workloads, func(w api.Workload) bool { return w.Inside != nil })
	if v.Config == nil || !v.Config.Prefix.IsValid() || inside { // to whom the prefix is closed
		return nil
	}
	to := v.Config.Prefix.Masked().Addr()
	source, err := v.Host.SourceIn(c.netns, to)
	if errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EHOSTUNREACH) {
		v.warn(checkContainers, "give it a default route, or one to the prefix", "%s has no way to %v: %v", c.name, v.Config.Prefix, err)
		return nil
	}
	if err != nil || !source.IsValid() {
		return err
	}
	var mapped []netip.Addr
	var words []string
	for _, w := range c.workloads {
		if len(w.Request.IPv6) > 0 {
			mapped = append(mapped, w.Request.IPv6[0])
			words = append(words, w.Request.IPv6[0].String())
		}
	}
	if !slices.Contains(mapped, source) {
		v.warn(checkContainers, "delete the container and add it again, or take the other address away (ip -6 addr, in the container)",
			"%s sends from %v, and %s is mapped: its connections are refused", c.name, source, strings.Join(words, ", "))
	}
	return nil
}
