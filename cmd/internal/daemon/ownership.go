//go:build linux

package daemon

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"iter"
	"os"
	"time"

	"github.com/natless/natless/cmd/internal/ipfix"
	"github.com/natless/natless/config"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/translator/ports"
)

// export makes the exporters of a configuration.
func (r *recorder) export(d *Daemon, c config.FlowsIPFIX) error {
	var trust *tls.Config
	if c.CA != "" && len(c.Collectors) > 0 {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return fmt.Errorf("flows.ipfix.ca: %w", err)
		}
		trust = &tls.Config{RootCAs: x509.NewCertPool()}
		if !trust.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("flows.ipfix.ca: %s has no certificate", c.CA)
		}
	}
	for _, collector := range c.Collectors {
		transport, address, err := config.Collector(collector)
		if err != nil {
			return err
		}
		e := ipfix.New(ipfix.Config{Transport: transport, Address: address, TLS: trust, Domain: uint32(c.Domain), Sample: r.sample,
			Serial: serialOf, Owners: d.keeper.portBlocks, Log: d.Log})
		r.exporters = append(r.exporters, e)
		r.receivers = append(r.receivers, e)
	}
	return nil
}

func serialOf(owner any) uint64 {
	if a, ok := owner.(*registry.Assignment); ok && a != nil {
		return a.Serial
	}
	return 0
}

// own tells collectors of ports that were given or taken back: the two events in a
// workload's life by which it is known who was behind an address and port.
func (r *recorder) own(c registry.Change) {
	if r.collector != nil && c.Old != nil {
		r.collector.Soon()
	}
	if len(r.exporters) == 0 {
		return
	}
	now := time.Now()
	tell := func(a *registry.Assignment, given bool) {
		if a == nil {
			return
		}
		for o := range blocks(a) {
			for _, e := range r.exporters {
				e.Tell(ipfix.Event{At: now, Given: given, Owner: o})
			}
		}
	}
	tell(c.Old, false)
	tell(c.New, true)
}

// portBlocks are all runs of ports that somebody has.
func (k *keeper) portBlocks() iter.Seq[ipfix.Owner] {
	return func(yield func(ipfix.Owner) bool) {
		for a := range k.Each() { // of a million, nobody wants a copy every five minutes
			for o := range blocks(a) {
				if !yield(o) {
					return
				}
			}
		}
	}
}

func blocks(a *registry.Assignment) iter.Seq[ipfix.Owner] {
	return func(yield func(ipfix.Owner) bool) {
		all := a.Ports
		if all.IsZero() {
			all = ports.All()
		}
		for run := range all.Runs() {
			if !yield(ipfix.Owner{Serial: a.Serial, IPv6: a.Request.IPv6[0], IPv4: a.Address, First: run.First, Last: run.Last, Name: nameOf(a)}) {
				return
			}
		}
	}
}
