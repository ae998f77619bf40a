package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/natless/natless/cmd/internal/cli"
	"github.com/natless/natless/cmd/internal/table"
)

func newReload(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "Make the daemon read its configuration again",
		Long: `Make the daemon read its configuration again. Either all of it takes effect at
once and no packet is lost, or it is refused with the reason and nothing changes.`,
		Args: cli.Arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := o.patientClient().Reload(c.Context())
			if err != nil {
				return err
			}
			if o.output == "json" {
				return table.JSON(c.OutOrStdout(), r)
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), "the configuration was reloaded")
			return err
		},
	}
}
