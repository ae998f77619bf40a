package main

import (
	"github.com/spf13/cobra"

	"github.com/natless/natless/cmd/internal/cli"
	"github.com/natless/natless/cmd/internal/demo"
)

func newDemo() *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Show natless at work inside this process: no privileges, no daemon, no device",
		Args:  cli.Arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return demo.Run(c.Context(), c.OutOrStdout(), printOwner)
		},
	}
}
