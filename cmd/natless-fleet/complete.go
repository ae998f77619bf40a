package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/natless/natless/cmd/natless-fleet/fleet"
)

// A shell that completes waits for this long; without a store it completes nothing.
const completePatience = 2 * time.Second

// maxCompletions is how many names a shell is given to choose from.
const maxCompletions = 500

// completion is a function of cobra's.
type completion = func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective)

// complete offers names of a kind, for the first arguments of a command; -1: for all.
func (o *options) complete(k fleet.Kind, arguments int) completion {
	return func(c *cobra.Command, args []string, begun string) (names []cobra.Completion, _ cobra.ShellCompDirective) {
		if arguments >= 0 && len(args) >= arguments {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(c.Context(), completePatience)
		defer cancel()
		ctx, s, done, err := o.ask(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer done()
		objects, _, _ := s.List(ctx, k) // without an answer there is nothing to offer
		for _, one := range objects {
			if strings.HasPrefix(one.Name, begun) && len(names) < maxCompletions {
				names = append(names, one.Name)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
