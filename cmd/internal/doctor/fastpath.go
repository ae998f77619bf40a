package doctor

import (
	"maps"
	"slices"
	"strings"

	"github.com/natless/natless/cmd/internal/words"
	"github.com/natless/natless/config/api"
)

// leftPrograms looks at the kernel for programs that nobody looks after: they would
// translate by tables of a run before.
func (v *visit) leftPrograms(check string) {
	list, err := v.Host.FastPath()
	if err != nil {
		v.unknown(check, err)
		return
	}
	list = slices.DeleteFunc(slices.Clone(list), func(s string) bool { // which stay where the fast path is off: see inside
		return v.status != nil && (strings.Contains(s, programSent) || strings.Contains(s, programGiven))
	})
	slices.Sort(list)
	const remedy = "natlessd --cleanup, with natlessd ended"
	switch {
	case v.status != nil && v.status.FastPath.Mode != "off":
		if twice := len(list) - len(slices.Compact(slices.Clone(list))); twice > 0 {
			v.fail(check, remedy, "%s the fast path twice: an earlier run left one, with tables of its own", words.Count(twice, "interface with"))
		}
	case v.status != nil && len(list) > 0:
		v.fail(check, remedy, "the fast path is off, and an earlier run left %s, with tables of its own", strings.Join(list, ", "))
	case len(list) > 0:
		v.warn(check, remedy+", where it is not to be started again", "natlessd does not answer, and the kernel goes on translating: %s",
			strings.Join(list, ", "))
	}
}

// offload looks at what the device takes off the daemon.
func (v *visit) offload() {
	const check = "offload"
	if v.status == nil {
		return
	}
	granted := v.status.Device.Offload
	if len(granted) == 0 {
		v.warn(check, "use Linux 6.2 or later", "the device takes no superpackets: each packet costs as much as 40 do in one")
		return
	}
	v.ok(check, "the device takes superpackets (%s)", strings.Join(granted, ", "))
}

// xdp looks at what stands in front of traffic control, where it is asked for.
func (v *visit) xdp() {
	const check = "xdp"
	x := v.status.FastPath.XDP
	if x == nil {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(x.Notes)) {
		v.warn(check, "leave it out of the key xdp, where that is no mistake: its packets go by the fast path at traffic control",
			"XDP at %s: %s", name, x.Notes[name])
	}
	if v.sound(check) {
		v.ok(check, "plain packets are translated in front of traffic control at %s", strings.Join(x.Interfaces, ", "))
	}
}

// fastPath looks at what the kernel translates by itself.
func (v *visit) fastPath() {
	const check = "fast path"
	v.leftPrograms(check)
	if v.status == nil {
		return
	}
	if v.Config != nil && v.Config.Uplink != "" && v.link(v.Config.Uplink) == nil {
		return // the uplink is missing, which was told: it has none either
	}
	v.xdp()
	switch o := v.status.FastPath; {
	case o.Mode == "off":
		v.ok(check, "the kernel's fast path is off, as the configuration says")
	case o.State == api.FastPathOff:
		v.warn(check, "packets go through natlessd, which works and costs more CPU; set fast_path: off to accept that",
			"the kernel's fast path is not used: %s", o.Detail)
	case o.State == api.FastPathPartial:
		for _, i := range o.Interfaces {
			if i.Error != "" {
				v.warn(check, "its packets go through natlessd, which works and costs more CPU", "the kernel's fast path is not on %s: %s",
					i.Name, i.Error)
			} else if i.Left != "" {
				v.warn(check, "its packets go through natlessd, which works and costs more CPU; fast_path: required uses the "+
					"fast path all the same", "packets at %s would bypass %s", i.Name, i.Left)
			}
		}
	default:
		v.ok(check, "the kernel translates plain packets at %s (%s)", words.Count(len(o.Interfaces), "interface"), o.Attach)
	}
}
