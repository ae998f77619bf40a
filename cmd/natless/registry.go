package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/natless/natless/cmd/internal/cli"
	"github.com/natless/natless/cmd/internal/table"
	"github.com/natless/natless/cmd/internal/words"
	"github.com/natless/natless/config"
	"github.com/natless/natless/config/registry"
)

func newRegistry(o *options) *cobra.Command {
	path := ""
	c := &cobra.Command{
		Use:   "registry",
		Short: "Back up, check and restore the registry of addresses and ports",
		Long: `Back up, check and restore the registry: the file in which natlessd remembers
which workload has which IPv4 address and ports, and which had them before.

natlessd does not start with a registry that is damaged or empty, or that is
missing although there was one: it would give other workloads the addresses and
ports of containers that are running. It leaves the file as it is. Stop natlessd,
and use the first of these that is possible. Each puts a sound registry in place,
and keeps the old file under a name with the time:

  restore   use a backup
  salvage   keep the records of the damaged registry that are whole
  new       begin with an empty one: running containers have no IPv4 until they
            are created again

FILE is registry.path of the configuration unless you give one.

Exit status: 0 when all is well, else 1.`,
		Args: cli.Arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.PersistentFlags().StringVar(&path, "config", "/etc/natless/natless.yaml",
		"the daemon's configuration `file`, which names the registry")
	file := func(args []string, i int) (string, error) {
		if len(args) > i {
			return args[i], nil
		}
		conf, err := config.Load(path)
		if err != nil {
			return "", fmt.Errorf("%w: name the registry's file", err)
		}
		return conf.Registry.Path, nil
	}
	c.AddCommand(newRegistryBackup(o), newRegistryCheck(o, file), newRegistryRestore(o, file), newRegistrySalvage(o, file),
		newRegistryNew(o, file))
	return c
}

// fileOf gives an argument, or the registry of the configuration.
type fileOf func(args []string, i int) (string, error)

func newRegistryBackup(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "backup FILE|-",
		Short: "Write a copy of the running daemon's registry",
		Long: `Write a copy of the running daemon's registry as it is at this moment.
Assignments go on meanwhile. FILE is replaced after the copy is complete and has
been checked; - means standard output. Keep a copy of the file "key" from the
registry's directory with it.`,
		Example: `  natless registry backup /var/backups/natless.db
  natless registry backup - | ssh backup 'cat > natless.db'`,
		Args: cli.Arguments(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			if args[0] == "-" {
				_, err := o.patientClient().Backup(c.Context(), c.OutOrStdout())
				return err
			}
			r, err := backup(c, o, args[0])
			if err != nil {
				return err
			}
			return printReport(c.OutOrStdout(), o, "backed up", r, "", r)
		},
	}
}

// backup writes a file that is there whole or not at all.
func backup(c *cobra.Command, o *options, path string) (r registry.Report, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-") // mode 0600
	if err != nil {
		return r, err
	}
	defer os.Remove(f.Name())
	_, err = o.patientClient().Backup(c.Context(), f)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return r, err
	}
	if r, err = registry.Check(f.Name()); err != nil {
		return r, err
	}
	r.Path = path
	return r, os.Rename(f.Name(), path)
}

func newRegistryCheck(o *options, file fileOf) *cobra.Command {
	return &cobra.Command{
		Use:   "check [FILE]",
		Short: "Check every record of a backup, or of a registry that no daemon uses",
		Args:  cli.Arguments(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			path, err := file(args, 0)
			if err != nil {
				return err
			}
			r, err := registry.Check(path)
			if err != nil {
				return err
			}
			return printReport(c.OutOrStdout(), o, "nothing is wrong with", r, "", r)
		},
	}
}

// replaced is what restore and new answer.
type replaced struct {
	registry.Report
	Aside string `json:"aside,omitempty"` // where the one before is
}

func newRegistryRestore(o *options, file fileOf) *cobra.Command {
	return &cobra.Command{
		Use:   "restore BACKUP [FILE]",
		Short: "Replace the registry with a backup, with natlessd stopped",
		Long: `Replace the registry with a backup, with natlessd stopped. The backup is checked
first. At every moment either the old or the new registry is in place; the old one
is kept under a name with the time.

Assignments made after the backup are not in it. Create those containers again,
because other workloads may be given the addresses and ports that they have.`,
		Args: cli.Arguments(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			path, err := file(args, 1)
			if err != nil {
				return err
			}
			r, aside, err := registry.Restore(args[0], path)
			if err != nil {
				return err
			}
			return printReport(c.OutOrStdout(), o, "restored", r, aside, replaced{r, aside})
		},
	}
}

func newRegistryNew(o *options, file fileOf) *cobra.Command {
	return &cobra.Command{
		Use:   "new [FILE]",
		Short: "Begin with an empty registry, with natlessd stopped",
		Long: `Begin with an empty registry, with natlessd stopped. Running containers have no
IPv4 until they are created again. The old registry is kept under a name with the
time.`,
		Args: cli.Arguments(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			path, err := file(args, 0)
			if err != nil {
				return err
			}
			r, aside, err := registry.New(path)
			if err != nil {
				return err
			}
			return printReport(c.OutOrStdout(), o, "began with an empty registry", r, aside, replaced{r, aside})
		},
	}
}

// salvaged is what salvage answers.
type salvaged struct {
	registry.Salvaged
	Aside string `json:"aside,omitempty"`
}

func newRegistrySalvage(o *options, file fileOf) *cobra.Command {
	return &cobra.Command{
		Use:   "salvage [FILE]",
		Short: "Keep the sound records of a damaged registry, with natlessd stopped",
		Long: `Make a new registry from the sound records of a damaged one, with natlessd
stopped, when there is no backup. The damaged one is kept under a name with the
time.

Each record has a checksum, so every record that is kept is right. What a missing
record assigned may be given to other workloads: compare "natless workloads" with
the containers that are running, and create those that it does not list again.`,
		Args: cli.Arguments(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			path, err := file(args, 0)
			if err != nil {
				return err
			}
			s, aside, err := registry.Salvage(path)
			if err != nil {
				return err
			}
			if o.output != "json" {
				for _, f := range s.Faults {
					fmt.Fprintln(c.OutOrStdout(), f)
				}
				fmt.Fprintln(c.OutOrStdout(), words.Number(s.Lost, "record is damaged and was left out", "records are damaged and were left out"))
			}
			return printReport(c.OutOrStdout(), o, "salvaged", s.Report, aside, salvaged{s, aside})
		},
	}
}

func printReport(w io.Writer, o *options, done string, r registry.Report, aside string, v any) error {
	if o.output == "json" {
		return table.JSON(w, v)
	}
	if err := table.Sentence(w, fmt.Sprintf("%s %s: %s, %s, %s, %d bytes, layout %s", done, r.Path, words.Count(r.Assignments, "assignment"),
		words.Number(r.Cooling, "port set in cooldown", "port sets in cooldown"), words.Number(r.History, "past assignment", "past assignments"),
		r.Bytes, cmp.Or(r.Layout, "?"))); err != nil {
		return err
	}
	if aside != "" {
		return table.Sentence(w, "the old registry is kept as "+aside)
	}
	return nil
}
