package main

import (
	"github.com/spf13/cobra"

	"github.com/natless/natless/cmd/internal/demo"
)

func newDemo() *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "See it work, in this process alone: no privileges, no daemon, no device",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return demo.Run(c.Context(), c.OutOrStdout(), printOwner)
		},
	}
}
