package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/natless/natless/cmd/internal/cli"
	"github.com/natless/natless/cmd/internal/table"
	"github.com/natless/natless/cmd/internal/words"
	"github.com/natless/natless/config/api"
)

// draining is what drain was asked for.
type draining struct {
	pool    string
	wait    bool
	timeout time.Duration
}

// drainLook is how often who waits looks who is left.
const drainLook = time.Second

func newDrain(o *options) *cobra.Command {
	var d draining
	c := &cobra.Command{
		Use:   "drain",
		Short: "Give nothing of this host, or of a pool, to new workloads",
		Long: `Give nothing of this host, or with --pool of one pool, to new workloads. Those that have
something keep it, and so do their connections. It lasts until natless undrain, also
over restarts and reloads, and natless status, natless doctor and the metrics say so.

Of a host that is drained, new workloads are refused with the code drained (CNI: 111).
Of a pool that is drained, those that name no pool and no address get something of the
next pool of its kind (shares, whole addresses, or the host's own address); where there
is none, and where they insist, they are refused.

With --wait it says who is left until nobody is. It moves nobody: that is for who
manages the workloads (kubectl drain, or an engine's own way).

Exit status: 0; with --wait 0 when nobody is left, and 1 when somebody is after
--timeout.`,
		Example: `  natless drain --wait
  natless drain --pool old --wait --timeout 1h
  natless undrain`,
		Args: cli.Arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			if d.timeout < 0 || d.timeout > 0 && !d.wait {
				return cli.Misuse("--timeout %v: is for how long to --wait", d.timeout)
			}
			client, out := o.client(), c.OutOrStdout()
			got, err := client.Drain(c.Context(), d.pool)
			if err == nil && o.output != "json" {
				err = table.Sentence(out, drainWords(got))
			}
			if err == nil && d.wait {
				got, err = d.empty(c.Context(), client, got, out, o.output == "json")
			}
			if o.output == "json" && got.Since != (time.Time{}) {
				err = errors.Join(table.JSON(out, got), err)
			}
			return err
		},
	}
	poolFlag(c, o, &d.pool)
	c.Flags().BoolVar(&d.wait, "wait", false, "wait until nobody is left")
	c.Flags().DurationVar(&d.timeout, "timeout", 0, "wait for this `time` at most, such as 10m")
	c.RegisterFlagCompletionFunc("timeout", nothing)
	return c
}

func newUndrain(o *options) *cobra.Command {
	var pool string
	c := &cobra.Command{
		Use:   "undrain",
		Short: "Let new workloads have something of this host, or of a pool, again",
		Args:  cli.Arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			text := "new workloads get something of %s again\n"
			switch err := o.client().Undrain(c.Context(), pool); {
			case errors.Is(err, api.ErrNotFound): // which is as good
				text = "%s is not drained\n"
			case err != nil:
				return err
			}
			if o.output == "json" {
				return table.JSON(c.OutOrStdout(), map[string]any{"pool": pool, "drained": false})
			}
			_, err := fmt.Fprintf(c.OutOrStdout(), text, drainedName(pool))
			return err
		},
	}
	poolFlag(c, o, &pool)
	return c
}

func poolFlag(c *cobra.Command, o *options, pool *string) {
	c.Flags().StringVar(pool, "pool", "", "only this `pool`, and not the whole host")
	c.RegisterFlagCompletionFunc("pool", o.completePool)
}

func drainedName(pool string) string {
	if pool == "" {
		return "this host"
	}
	return "pool " + pool
}

// drainWords says what is drained, and who is left.
func drainWords(d api.Drain) string {
	text := fmt.Sprintf("%s takes no new workloads since %s, %s left", drainedName(d.Pool), moment(d.Since), words.Count(d.Left, "workload"))
	if d.Unknown {
		text += "; no such pool is configured any more"
	}
	return text
}

// empty waits until nobody is left. A daemon that is restarted is waited for.
func (d *draining) empty(ctx context.Context, client *api.Client, got api.Drain, w io.Writer, quietly bool) (api.Drain, error) {
	began, said := time.Now(), -1
	for {
		if got.Left == 0 {
			return got, nil
		}
		if got.Left != said && !quietly {
			said = got.Left
			if err := d.progress(ctx, client, got, w); err != nil {
				return got, quiet(err)
			}
		}
		if d.timeout > 0 && time.Since(began) > d.timeout {
			return got, fmt.Errorf("%s left after %v: `natless workloads` lists them", words.Count(got.Left, "workload"), d.timeout)
		}
		if !rest(ctx, drainLook) {
			return got, ctx.Err()
		}
		all, err := client.Drains(ctx)
		switch {
		case errors.Is(err, api.ErrUnavailable), errors.Is(err, api.ErrStarting):
			continue
		case err != nil:
			return got, err
		}
		is := false
		for _, one := range all {
			if one.Pool == d.pool {
				got, is = one, true
			}
		}
		if !is {
			return got, fmt.Errorf("%s is drained no more: somebody has ended it", drainedName(d.pool))
		}
	}
}

// progress says who is left, some of them by name.
func (d *draining) progress(ctx context.Context, client *api.Client, got api.Drain, w io.Writer) error {
	const some = 3
	rows, err := client.Rows(ctx, api.Filter{Pool: d.pool})
	if err != nil {
		rows = nil // the number is known all the same
	}
	var names []string
	for _, r := range rows {
		if r.Name != "" {
			names = append(names, r.Name)
		} else {
			names = append(names, short(r.Key))
		}
	}
	text := fmt.Sprintf("%s  %s left", time.Now().Format(time.TimeOnly), words.Count(got.Left, "workload"))
	if names != nil {
		text += ": " + words.Some(names, some)
	}
	return table.Sentence(w, text)
}
