// Package cli has what command lines of natless and natless-fleet have in common: how
// Arguments and times are read, and with which status a command ends that was given wrong
// ones. What a command does may not enter.
package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/natless/natless/cmd/internal/words"
)

// The exit statuses, which are those of natlessd and natless-cni as well.
const (
	Failed = 1 // it was tried, and failed; or doctor found something
	Wrong  = 2 // the command line is wrong: nothing was tried
)

// usageError is a command line that is wrong.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// Misuse says what is wrong with a command line.
func Misuse(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// Begun notes whether a command line was taken.
type Begun bool

// Status is the exit status for an error. Whatever cobra refuses before a command
// begins is the command line's fault.
func (b *Begun) Status(err error) int {
	switch wrong := (usageError{}); {
	case err == nil:
		return 0
	case !bool(*b), errors.As(err, &wrong):
		return Wrong
	}
	return Failed
}

// Note has every command note that its line was taken.
func (b *Begun) Note(c *cobra.Command) {
	for _, sub := range c.Commands() {
		b.Note(sub)
	}
	if run := c.RunE; run != nil {
		c.RunE = func(c *cobra.Command, args []string) error {
			*b = true
			return run(c, args)
		}
	}
}

// Arguments takes from least to most of them; most -1: any number. What they are
// called stands in the command's Use line.
func Arguments(least, most int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			_, rest, _ := strings.Cut(c.Use, " ")
			return Misuse("%s is missing: %s", strings.Fields(rest)[len(args)], c.UseLine())
		case most < 0 || len(args) <= most:
			return nil
		case most == 0 && c.HasSubCommands():
			return Misuse("unknown command %q for %q%s", args[0], c.CommandPath(), meant(c, args[0]))
		case most == 0:
			return Misuse("%q: %s takes no arguments", args[0], c.CommandPath())
		}
		return Misuse("%q: %s takes %s", args[most], c.CommandPath(), words.Count(most, "argument"))
	}
}

// meant is which command somebody may have meant.
func meant(c *cobra.Command, arg string) string {
	if c.SuggestionsMinimumDistance <= 0 {
		c.SuggestionsMinimumDistance = 2
	}
	if like := c.SuggestionsFor(arg); len(like) > 0 {
		return ": is it " + strings.Join(like, " or ") + "?"
	}
	var names []string
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	return ": there are " + strings.Join(names, ", ")
}

// Group makes of a command with nothing of its own one that shows its help.
func Group(c *cobra.Command) *cobra.Command {
	c.Args = Arguments(0, 0)
	c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	return c
}

// Help is cobra's own, but that what it does not know is wrong.
func Help(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Help about a command",
		RunE: func(_ *cobra.Command, args []string) error {
			c, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return Misuse("there is no command %q", strings.Join(args, " "))
			}
			return c.Help()
		},
	}
}
