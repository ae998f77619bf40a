package main

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"github.com/natless/natless/cmd/internal/cli"
	"github.com/natless/natless/cmd/internal/table"
	"github.com/natless/natless/cmd/internal/version"
	"github.com/natless/natless/config/registry"
)

// versions are what natless version says: of this program, and of the daemon if it
// answers.
type versions struct {
	Natless  built   `json:"natless"`
	Natlessd *served `json:"natlessd"` // null: it does not answer
}

// built is a program, and the registry that it reads and writes.
type built struct {
	Version        string `json:"version"`
	RegistryLayout string `json:"registry_layout"`
	Go             string `json:"go"`
	Platform       string `json:"platform"`
}

// served is a daemon, and what it has in the kernel.
type served struct {
	Version        string `json:"version"`
	FastPathLayout int    `json:"fast_path_layout,omitempty"` // 0: it has none there
}

func newVersion(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show which version this is, and which the daemon",
		Long: `Show the version of this program and the layout of the registry that it knows,
and the version of the daemon with the layout of its fast path in the kernel.

Exit status: 0, also when no daemon answers.`,
		Args: cli.Arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			v := versions{Natless: built{version.String(), registry.Layout, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}}
			ctx, cancel := context.WithTimeout(c.Context(), 2*time.Second)
			defer cancel()
			if s, err := o.client().Status(ctx); err == nil {
				v.Natlessd = &served{s.Version, s.FastPath.Layout}
			}
			if o.output == "json" {
				return table.JSON(c.OutOrStdout(), v)
			}
			return printVersions(c.OutOrStdout(), v)
		},
	}
}

func printVersions(w io.Writer, v versions) error {
	daemon := "does not answer"
	if d := v.Natlessd; d != nil {
		daemon = d.Version
		if d.FastPathLayout != 0 {
			daemon += fmt.Sprintf(", fast path layout %d", d.FastPathLayout)
		}
	}
	n := v.Natless
	return table.Facts(w, "natless", fmt.Sprintf("%s, registry layout %s, %s, %s", n.Version, n.RegistryLayout, n.Go, n.Platform), "natlessd", daemon)
}
