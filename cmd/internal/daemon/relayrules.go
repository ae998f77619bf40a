//go:build linux

package daemon

import (
	"context"
	"errors"

	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/lease"
	"github.com/natless/natless/netstack/shed"
	"github.com/natless/natless/translator/mapping"
)

// putRules has the relay go by other rules. What is answered is durable and in force.
func (d *Daemon) putRules(_ context.Context, set api.RuleSet) (api.Relay, error) {
	return d.followed(d.reloader.rules(set))
}

// patchRules has what is another in them be another, likewise.
func (d *Daemon) patchRules(_ context.Context, delta api.RuleDelta) (api.Relay, error) {
	return d.followed(d.reloader.patch(delta))
}

// followed is what is answered where other rules were put in force.
func (d *Daemon) followed(err error) (api.Relay, error) {
	r := d.reloader
	if err != nil {
		return api.Relay{}, err
	}
	if err := r.serve(d.metric); err != nil {
		return api.Relay{}, err
	}
	return d.relay(r.running(), false)
}

func (r *reloader) rules(set api.RuleSet) error {
	r.one.Lock()
	defer r.one.Unlock()
	c, before := r.running(), r.keeper.Relay()
	next, gone, err := before.Apply(set, lease.RelayAsked{Boot: r.boot, Check: c.CheckRule})
	if err != nil {
		return err
	}
	if !next.Same(before) {
		if err := r.follows(c, next); err != nil {
			return errors.Join(err, r.follows(c, before))
		}
		r.log.Info("the fleet has told this relay other rules", "epoch", next.Epoch, "rules", next.Count(), "gone", gone)
	}
	r.told()
	return nil
}

// told notes that rules were told; the caller holds one.
func (r *reloader) told() {
	if err := r.host.relay.told(); err != nil {
		r.log.Warn("when the rules were last told is not written down", "error", err)
	}
}

// follows has rules on disk, then in force.
func (r *reloader) follows(c *config.Config, next lease.Relay) error {
	if err := r.keeper.SetRelay(next); err != nil {
		return err
	}
	return r.replace(c)
}

// patch has what is another in the rules on disk, then in force: in a time that does not grow
// with what stays.
func (r *reloader) patch(delta api.RuleDelta) error {
	r.one.Lock()
	defer r.one.Unlock()
	c, before := r.running(), r.keeper.Relay()
	next, x, err := before.Change(delta, lease.RelayAsked{Boot: r.boot, Check: c.CheckRule})
	if err != nil {
		return err
	}
	if !next.Same(before) {
		if err := r.exchange(c, next, delta, x); err != nil {
			return errors.Join(err, r.follows(c, before))
		}
		r.log.Info("the fleet has told this relay a change of its rules", "epoch", next.Epoch, "rules", next.Count(), "gone", len(x.Gone), "come", len(x.Come))
	}
	r.told()
	return nil
}

func (r *reloader) exchange(c *config.Config, next lease.Relay, delta api.RuleDelta, x lease.Exchange) error {
	if err := r.keeper.ChangeRelay(next, delta); err != nil {
		return err
	}
	if len(x.Gone)+len(x.Come) == 0 {
		return nil
	}
	plan, err := r.engine.PlanExplicit(mappingsOf(x.Gone), mappingsOf(x.Come))
	if err == nil {
		err = plan.Commit()
	}
	if err != nil {
		return err
	}
	for _, one := range x.Gone {
		r.wish(one.IPv6, shed.Wish{})
	}
	for _, one := range x.Come {
		r.wish(one.IPv6, wishOf(c.Shedding.Of(config.Shedded{IPv6: one.IPv6.Addr()})))
	}
	return nil
}

func mappingsOf(rules []api.Rule) (all []mapping.Mapping) {
	for _, one := range rules {
		all = append(all, mappingOf(one))
	}
	return all
}

func mappingOf(r api.Rule) mapping.Mapping {
	return mapping.Mapping{IPv6: r.IPv6, IPv4: r.IPv4, Ports: r.Ports}
}
