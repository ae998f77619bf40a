package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// newFleet hands over to natless-fleet, a program of its own: this one links nothing of what
// that needs to speak with etcd or an API server.
func newFleet() *cobra.Command {
	return &cobra.Command{
		Use:   "fleet COMMAND...",
		Short: "Run natless-fleet: blocks of addresses that hosts of a fleet are lent",
		Long: `Run natless-fleet, which has a package of its own: pools, hosts and relays of a fleet, who has
which block, and which workload of which host has, or had, an address and port.`,
		Example: `  natless fleet status --etcd https://etcd1:2379
  natless fleet blocks --host web1 --etcd https://etcd1:2379
  natless fleet whois 198.51.100.7:4321 --etcd https://etcd1:2379`,
		DisableFlagParsing: true,
		ValidArgsFunction:  completeFleet,
		RunE: func(_ *cobra.Command, args []string) error {
			path, err := exec.LookPath("natless-fleet")
			if errors.Is(err, exec.ErrNotFound) {
				return errors.New("natless-fleet is not installed: it is in the package natless-fleet")
			}
			if err != nil {
				return err
			}
			if err := syscall.Exec(path, append([]string{"natless-fleet"}, args...), os.Environ()); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			return nil
		},
	}
}

// completeFleet offers what natless-fleet does.
func completeFleet(c *cobra.Command, args []string, begun string) (words []cobra.Completion, _ cobra.ShellCompDirective) {
	out, err := exec.CommandContext(c.Context(), "natless-fleet", append(append([]string{"__complete"}, args...), begun)...).Output()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSuffix(line, "\n")
		if text, is := strings.CutPrefix(line, ":"); is { // how to go on: the last line
			how, err := strconv.Atoi(text)
			if err != nil {
				break
			}
			return words, cobra.ShellCompDirective(how)
		}
		words = append(words, line)
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}
