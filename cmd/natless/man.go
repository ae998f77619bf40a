//go:build manual

package main

import (
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/natless/natless/cmd/internal/cli"
	"github.com/natless/natless/cmd/internal/manual"
)

// The manual pages need libraries that no operator's command needs. So the command
// that writes them is in a program of its own, which who makes a package runs:
// go run -tags manual ./cmd/natless man DIRECTORY VERSION
func init() { hidden = append(hidden, newMan) }

// newMan is for who makes a package.
func newMan() *cobra.Command {
	return &cobra.Command{
		Use:    "man DIRECTORY VERSION",
		Short:  "Write the manual pages of all of natless into a directory",
		Hidden: true,
		Args:   cli.Arguments(2, 2),
		RunE: func(c *cobra.Command, args []string) error {
			return manual.Write(args[0], c.Root(), args[1], sourceDate())
		},
	}
}

// sourceDate is now, or what makes the same source give the same bytes
// (reproducible-builds.org).
func sourceDate() time.Time {
	if n, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64); err == nil {
		return time.Unix(n, 0).UTC()
	}
	return time.Now().UTC()
}
