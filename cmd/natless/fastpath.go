package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/natless/natless/cmd/internal/table"
	"github.com/natless/natless/cmd/internal/words"
	"github.com/natless/natless/config/api"
)

// maxListed bounds the interfaces that are printed; JSON has all.
const maxListed = 10

// printFastPath says what the kernel does by itself, and of that which is amiss
// first.
func printFastPath(w io.Writer, o api.FastPath) error {
	if o.Mode == "" { // an older natlessd
		return nil
	}
	state := o.State
	if o.Attach != "" {
		state += fmt.Sprintf(", by %s, layout %d", o.Attach, o.Layout)
	}
	if o.Adopted {
		state += ", from an earlier run"
	}
	var uplinks, fabric, translated, passed []string
	workloads := 0
	for _, i := range o.Interfaces {
		switch {
		case i.Uplink:
			uplinks = append(uplinks, i.Name)
		case i.Fabric:
			fabric = append(fabric, i.Name)
		default:
			workloads++
		}
	}
	attached := ""
	if len(o.Interfaces) > 0 {
		attached = fmt.Sprintf("uplink %s; %s", strings.Join(uplinks, " "), words.Count(workloads, "interface of workloads"))
		if len(fabric) > 0 {
			attached += "; fabric " + strings.Join(fabric, " ")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(o.Translated)) {
		translated = append(translated, fmt.Sprintf("%s %d", name, o.Translated[name].Packets))
	}
	for _, name := range slices.Sorted(maps.Keys(o.Passed)) {
		if o.Passed[name] > 0 {
			passed = append(passed, fmt.Sprintf("%s %d", name, o.Passed[name]))
		}
	}
	lost := ""
	if o.Lost > 0 {
		lost = words.Count(o.Lost, "packet that the kernel refused once translated")
	}
	if err := table.Facts(w, "fast path", state, "  mode", o.Mode, "  because", o.Detail, "  attached to", attached,
		"  translated", strings.Join(translated, ", "), "  passed on", strings.Join(passed, ", "), "  lost", lost); err != nil {
		return err
	}
	if err := printXDP(w, o.XDP); err != nil {
		return err
	}
	return printAmiss(w, o)
}

// printXDP says what stands in front of traffic control, and where it does not.
func printXDP(w io.Writer, x *api.FastPathXDP) error {
	if x == nil {
		return nil
	}
	at, became := strings.Join(x.Interfaces, " "), []string(nil)
	if at == "" {
		at = "nowhere"
	}
	for _, why := range slices.Sorted(maps.Keys(x.Packets)) {
		became = append(became, fmt.Sprintf("%s %d", why, x.Packets[why]))
	}
	if err := table.Facts(w, "  xdp at", at, "  by xdp", strings.Join(became, ", ")); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(x.Notes)) {
		if err := table.Sentence(w, fmt.Sprintf("  XDP at %s: %s", name, x.Notes[name])); err != nil {
			return err
		}
	}
	return nil
}

// printAmiss says at which interfaces the kernel translates nothing, or less than all.
func printAmiss(w io.Writer, o api.FastPath) error {
	listed := 0
	for _, i := range o.Interfaces {
		if i.Error == "" && i.Left == "" {
			continue
		}
		if listed++; listed > maxListed {
			_, err := fmt.Fprintln(w, "  … (natless status -o json has all)")
			return err
		}
		line := fmt.Sprintf("  not at %s: %s", i.Name, i.Error)
		if i.Error == "" && o.Mode == "required" {
			line = fmt.Sprintf("  at %s, as required, bypassing %s", i.Name, i.Left)
		} else if i.Error == "" {
			line = fmt.Sprintf("  left to the daemon at %s: packets would bypass %s", i.Name, i.Left)
		}
		if err := table.Sentence(w, line); err != nil {
			return err
		}
	}
	return nil
}
