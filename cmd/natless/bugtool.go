//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/natless/natless/cmd/internal/bugtool"
	"github.com/natless/natless/cmd/internal/cli"
	"github.com/natless/natless/cmd/internal/doctor"
	"github.com/natless/natless/cmd/internal/table"
	"github.com/natless/natless/cmd/internal/version"
	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
)

// doctorPatience is for all of its checks: each waits for those who do not answer.
const doctorPatience = time.Minute

func newBugtool(o *options) *cobra.Command {
	var file, conf string
	c := &cobra.Command{
		Use:   "bugtool",
		Short: "Put what a bug report needs into one archive",
		Long: `Put what a bug report needs into one archive: what natlessd and natless doctor say,
the configuration, logs, and what of the host's network concerns natless. What is
in it is listed, and what could not be had, and why; it works without natlessd, and
without the tools that it asks. Run it as root, in natlessd's network namespace.

Neither the key nor the registry is in it, and what looks like a secret is cut out.
It has names and addresses of workloads, addresses of this host, and its packet
filter: look at it (tar -xzf) before you give it to somebody.

Standard output has the name of the archive, and nothing else; with -o json, the
list as well.`,
		Example: `  natless bugtool
  natless bugtool -w - | ssh backup 'cat > bug.tar.gz'`,
		Args: cli.Arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error { return o.makeArchive(c, file, conf) },
	}
	c.Flags().StringVarP(&file, "write", "w", "", "the `file`; - is standard output (default natless-bugtool-HOST-TIME.tar.gz here)")
	c.Flags().StringVar(&conf, "config", "", "the daemon's configuration `file` (default the one that it runs, else "+defaultConfig+")")
	return c
}

func (o *options) makeArchive(c *cobra.Command, file, conf string) error {
	now := time.Now()
	host, _ := os.Hostname()
	directory := fmt.Sprintf("natless-bugtool-%s-%s", host, now.UTC().Format("20060102T150405Z"))
	if file == "" {
		file = directory + ".tar.gz"
	}
	out := c.OutOrStdout()
	if file != "-" {
		f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		out = f
	}
	all := []bugtool.Entry{}
	err := bugtool.Write(c.Context(), out, directory, now, o.bugItems(c, conf, now), func(e bugtool.Entry) {
		all = append(all, e)
		if o.output != "json" {
			fmt.Fprintln(c.ErrOrStderr(), e)
		}
	})
	switch {
	case err != nil && file != "-":
		os.Remove(file) // half of one is worth nothing
		return err
	case err != nil || file == "-":
		return quiet(err)
	case o.output == "json":
		return table.JSON(c.OutOrStdout(), struct {
			File    string          `json:"file"`
			Entries []bugtool.Entry `json:"entries"`
		}{file, all})
	}
	_, err = fmt.Fprintln(c.OutOrStdout(), file)
	return err
}

// bugItems are the items, the daemon's first.
func (o *options) bugItems(c *cobra.Command, conf string, now time.Time) []bugtool.Item {
	client := o.client()
	p := o.patient(c, conf, now)
	p.NetworkConfigs = defaultNetworks
	if p.Config != nil && !c.Flags().Changed("socket") {
		client = p.Client
	}
	device, uplink, metrics := config.Default().Device.Name, "", ""
	if p.Config != nil {
		device, uplink = p.Config.Device.Name, p.Config.Uplink
		if at := p.Config.Metrics.Listen; at.IsValid() {
			metrics = at.String()
		}
	}
	asked := func(name, what string, ask func(context.Context) (any, error)) bugtool.Item {
		return bugtool.Item{Name: name, What: what, Get: func(ctx context.Context) ([]byte, error) {
			v, err := ask(ctx)
			if err != nil {
				return nil, err
			}
			return json.MarshalIndent(v, "", "  ")
		}}
	}
	items := []bugtool.Item{
		{Name: "version.txt", What: "of natless", Get: func(context.Context) ([]byte, error) { return []byte("natless " + version.String() + "\n"), nil }},
		asked("status.json", "natless status", func(ctx context.Context) (any, error) { return client.Status(ctx) }),
		asked("pools.json", "natless pools, the fullest 64 addresses of each", func(ctx context.Context) (any, error) { return client.FullestPools(ctx, 64) }),
		{Name: "workloads.txt", What: "natless workloads", Get: func(ctx context.Context) ([]byte, error) {
			rows, err := client.Rows(ctx, api.Filter{})
			if err != nil {
				return nil, err
			}
			var b bytes.Buffer
			err = (&listing{}).print(&b, rows, now)
			return b.Bytes(), err
		}},
		{Name: "doctor.txt", What: "natless doctor", Patience: doctorPatience, Get: func(ctx context.Context) ([]byte, error) {
			var b bytes.Buffer
			doctor.Examine(ctx, p, func(f doctor.Finding) { printFinding(&b, f) })
			return b.Bytes(), ctx.Err()
		}},
		bugtool.Files("natless.yaml", "the configuration", p.ConfigPath),
		{Name: "metrics.txt", What: "what Prometheus is told", Get: func(ctx context.Context) ([]byte, error) { return fetch(ctx, metrics) }},
		{Name: "goroutines.pprof", What: "what natlessd does (api.pprof: true)", Get: func(ctx context.Context) ([]byte, error) {
			return client.Profile(ctx, "goroutine")
		}},
	}
	if p.Config != nil {
		items = append(items, asked("registry.json", "natless registry check, and not the registry", func(context.Context) (any, error) {
			return registry.Check(p.Config.Registry.Path)
		}))
	}
	return append(items, bugtool.Host(device, uplink)...)
}

// fetch reads the metrics of a daemon that has any.
func fetch(ctx context.Context, at string) ([]byte, error) {
	if at == "" {
		return nil, fmt.Errorf("metrics.listen is not configured")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}
