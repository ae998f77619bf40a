package main

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/natless/natless/cmd/internal/cli"
	"github.com/natless/natless/cmd/internal/table"
	"github.com/natless/natless/cmd/natless-fleet/fleet"
)

func newEvents(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "events",
		Short: "Show what has happened in the last hour",
		Args:  cli.Arguments(0, 0),
		RunE: o.with(func(ctx context.Context, out io.Writer, s fleet.Store, _ []string) error {
			r, keeps := s.(fleet.Recorder)
			if !keeps {
				return errors.New("this store keeps no events")
			}
			notes, err := r.Notes(ctx)
			if err != nil {
				return err
			}
			if o.output == "json" {
				return table.JSON(out, append([]fleet.Note{}, notes...))
			}
			var rows [][]string
			for _, n := range notes {
				kind := "Normal"
				if n.Warning {
					kind = "Warning"
				}
				rows = append(rows, []string{n.Time.Local().Format(time.TimeOnly), kind, string(n.Kind) + "/" + n.Name, n.Reason, n.Message})
			}
			return table.Write(out, "nothing has happened in the last hour", []table.Column{{Head: "TIME"}, {Head: "TYPE", Leave: 1}, {Head: "ABOUT"},
				{Head: "REASON", Leave: 2}, {Head: "MESSAGE"}}, rows)
		}),
	}
}
