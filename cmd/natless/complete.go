package main

import (
	"cmp"
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/natless/natless/config/api"
)

// A shell that completes waits for this long; without a daemon it completes
// nothing.
const completePatience = time.Second

func (o *options) completeWorkload(c *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(c.Context(), completePatience)
	defer cancel()
	all, err := o.client().List(ctx, api.Filter{})
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var words []cobra.Completion
	for _, w := range all {
		words = append(words, cobra.CompletionWithDesc(cmp.Or(w.Request.Name, w.Key.String()), w.Address.String()+" "+api.PortsText(w.Ports)))
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}

func (o *options) completePool(c *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(c.Context(), completePatience)
	defer cancel()
	pools, err := o.client().Pools(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var words []cobra.Completion
	for _, p := range pools {
		words = append(words, p.Name)
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}
