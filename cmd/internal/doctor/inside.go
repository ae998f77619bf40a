package doctor

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/natless/natless/cmd/internal/words"
	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
)

const checkInside = "inside"

// inside looks at workloads that have their IPv4 inside: at what there is in their
// containers, and at how their packets come to the host.
func (v *visit) inside() {
	var all []api.Workload
	for _, w := range v.workloads {
		if w.Inside != nil {
			all = append(all, w)
		}
	}
	if len(all) == 0 {
		return
	}
	v.insideDevice()
	v.insideHooks(all)
	v.insideContainers(all)
	if v.sound(checkInside) {
		v.ok(checkInside, "%s with the IPv4 address inside, as it was made", words.Count(len(all), "workload"))
	}
}

// insideDeviceName: who has it keeps it, whatever the file says.
func (v *visit) insideDeviceName() string { return cmp.Or(v.Config.Inside.Device, config.InsideDevice) }

func (v *visit) insideDevice() {
	if v.Config == nil {
		return
	}
	const remedy = "systemctl restart natlessd"
	name := v.insideDeviceName()
	switch l := v.link(name); {
	case l == nil:
		v.fail(checkInside, remedy, "the device %s is gone: what workloads with IPv4 inside send that is not plain is lost", name)
	case !l.Up:
		v.fail(checkInside, fmt.Sprintf("ip link set %s up", name), "the device %s is down: what workloads with IPv4 inside send that is not "+
			"plain is lost", name)
	}
}

// The programs of IPv4 inside, at a workload's interface and at the device.
const (
	programSent  = "program sent4 at interface "
	programGiven = "program given4 at interface "
)

// insideHooks: without the program at its interface no IPv4 of a workload gets
// anywhere, and without that at the device nothing of the daemon's comes to one.
func (v *visit) insideHooks(all []api.Workload) {
	list, err := v.Host.FastPath()
	if err != nil {
		v.unknown(checkInside, err)
		return
	}
	at := func(program, name string) bool {
		return slices.ContainsFunc(list, func(s string) bool { return strings.HasSuffix(s, program+name) })
	}
	const remedy = "natless status says why, at the fast path; else systemctl restart natlessd"
	if v.Config != nil && !at(programGiven, v.insideDeviceName()) {
		v.fail(checkInside, remedy, "no program at %s: what is not plain does not come to workloads with IPv4 inside", v.insideDeviceName())
	}
	var bare []string
	for _, w := range all {
		if !at(programSent, w.Request.HostInterface) {
			bare = append(bare, fmt.Sprintf("%s (%s)", w.Request.HostInterface, cmp.Or(w.Request.Name, w.Key.String())))
		}
	}
	if bare != nil {
		v.fail(checkInside, remedy, "no program at the interfaces of workloads with IPv4 inside, whose IPv4 leads nowhere: %s",
			words.Some(bare, 4))
	}
}

// insideContainers enters them.
func (v *visit) insideContainers(all []api.Workload) {
	told := slices.ContainsFunc(v.findings, func(f Finding) bool { return f.Check == checkInside && f.State == Warn })
	for _, w := range all[:min(len(all), maxContainers)] {
		name := cmp.Or(w.Request.Name, w.Key.String())
		if w.Stale() {
			if !told { // by the daemon, of all of them
				v.warn(checkInside, "create the container again", "%s has %v inside, and its address is %v now: what it sends is refused",
					name, w.Inside.Address, w.Address)
			}
			continue
		}
		if w.Request.Netns == "" {
			continue
		}
		switch changed, err := v.Host.Inside(w); {
		case errors.Is(err, fs.ErrNotExist): // it has just ended
		case err != nil:
			v.unknown(checkInside, fmt.Errorf("%s: %w", name, err))
			return
		case changed != nil:
			v.warn(checkInside, "create the container again; does something in it change addresses, routes or rules?",
				"in %s, whose IPv4 is inside: %s", name, words.Some(changed, 4))
		}
	}
}
