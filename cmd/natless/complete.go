package main

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/natless/natless/config/api"
)

// A shell that completes waits for this long; without a daemon it completes
// nothing.
const completePatience = time.Second

// maxCompletions is how many names a shell is given to choose from.
const maxCompletions = 500

// rows are those of workloads that a shell can offer, and when to stop waiting.
func (o *options) rows(c *cobra.Command, f api.Filter) []api.Row {
	ctx, cancel := context.WithTimeout(c.Context(), completePatience)
	defer cancel()
	rows, _ := o.client().Rows(ctx, f)
	return rows[:min(len(rows), maxCompletions)]
}

// nothing can be completed: not with files, which a shell offers else.
func nothing(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveNoFileComp
}

func (o *options) completeWorkload(c *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nothing(c, args, begun)
	}
	rows := o.rows(c, api.Filter{Name: begun + "*"})
	if begun != "" {
		rows = append(rows, o.rows(c, api.Filter{Start: begun})...)
	}
	var words []cobra.Completion
	for _, r := range rows {
		word := cmp.Or(r.Name, r.Key.String())
		if begun != "" && !strings.HasPrefix(word, begun) {
			word = r.Key.String()
		}
		words = append(words, cobra.CompletionWithDesc(word, r.Address.String()+" "+r.Ports))
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}

func (o *options) completeName(c *cobra.Command, _ []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return distinct(o.rows(c, api.Filter{Name: begun + "*"}), func(r api.Row) string { return r.Name }), cobra.ShellCompDirectiveNoFileComp
}

func (o *options) completeNetwork(c *cobra.Command, _ []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
	rows := o.rows(c, api.Filter{Network: begun + "*"})
	return distinct(rows, func(r api.Row) string { return r.Network }), cobra.ShellCompDirectiveNoFileComp
}

// completeAddress offers the addresses that workloads have.
func (o *options) completeAddress(c *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nothing(c, args, begun)
	}
	return distinct(o.rows(c, api.Filter{}), func(r api.Row) string { return r.Address.String() }), cobra.ShellCompDirectiveNoFileComp
}

func distinct(rows []api.Row, word func(api.Row) string) (words []cobra.Completion) {
	for _, r := range rows {
		if w := word(r); w != "" {
			words = append(words, w)
		}
	}
	slices.Sort(words)
	return slices.Compact(words)
}

func (o *options) completePool(c *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(c.Context(), completePatience)
	defer cancel()
	pools, err := o.client().FullestPools(ctx, 0)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var words []cobra.Completion
	for _, p := range pools {
		words = append(words, p.Name)
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}
