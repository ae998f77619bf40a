package main

import (
	"bytes"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/natless/natless/cmd/internal/cli"
)

// each calls f with every command.
func each(c *cobra.Command, f func(*cobra.Command)) {
	f(c)
	for _, sub := range c.Commands() {
		each(sub, f)
	}
}

// TestExitStatus: what is wrong with the command line is 2, what failed is 1, and
// neither is told in cobra's words.
func TestExitStatus(t *testing.T) {
	socket := daemon(t)
	for _, c := range []struct {
		words string
		want  int
		says  string
	}{
		{"status", 0, ""},
		{"cni", 0, ""},
		{"statsu", cli.Wrong, `unknown command "statsu" for "natless": is it status?`},
		{"bogus", cli.Wrong, `unknown command "bogus" for "natless": there are blocks, bugtool, capture, cni,`},
		{"cni bogus", cli.Wrong, `unknown command "bogus" for "natless cni": there are install, uninstall`},
		{"registry bogus", cli.Wrong, `unknown command "bogus" for "natless registry"`},
		{"workloads bogus", cli.Wrong, `unknown command "bogus" for "natless workloads"`},
		{"help bogus", cli.Wrong, `there is no command "bogus"`},
		{"status extra", cli.Wrong, `"extra": natless status takes no arguments`},
		{"status --bogus", cli.Wrong, "unknown flag: --bogus (natless status --help lists the flags)"},
		{"status -o xml", cli.Wrong, "is neither text nor json"},
		{"whois", cli.Wrong, "ADDRESS[:PORT] is missing: natless whois ADDRESS[:PORT]"},
		{"whois a b", cli.Wrong, `"b": natless whois takes 1 argument`},
		{"whois 198.51.100.1:x", cli.Wrong, "is not an address"},
		{"whois 198.51.100.1:1 --at noon", cli.Wrong, "--at"},
		{"whois 198.51.100.1:444", cli.Failed, "nobody has 198.51.100.1:444"},
		{"workloads show", cli.Wrong, "WORKLOAD is missing"},
		{"workloads show nobody", cli.Failed, "no workload is called"},
		{"workloads --pool nowhere", cli.Failed, "there are default, dedicated"},
		{"workloads --sort shoe", cli.Wrong, "is none of name,"},
		{"workloads --address x", cli.Wrong, "is neither an address nor ADDRESS/LEN"},
		{"registry restore", cli.Wrong, "BACKUP is missing"},
		{"registry check a b", cli.Wrong, "takes 1 argument"},
		{"explain", cli.Wrong, "PACKET-IN-WORDS is missing"},
		{"explain --config a --prefix b x", cli.Wrong, "leave out --prefix and --map"},
		{"explain --prefix b x", cli.Wrong, "--prefix"},
		{"monitor --address=x", cli.Wrong, "--address"},
		{"monitor --for long", cli.Wrong, "--for"},
		{"capture", cli.Wrong, "name the file: -w FILE"},
		{"capture -w x --max-size huge", cli.Wrong, "--max-size"},
		{"reload", cli.Failed, "prefix: is wrong"},
	} {
		o := &options{}
		root := newRoot(o)
		root.SetOut(new(bytes.Buffer))
		root.SetErr(new(bytes.Buffer))
		root.SetArgs(append(strings.Fields(c.words), "--socket", socket))
		err := root.ExecuteContext(t.Context())
		if got := o.begun.Status(err); got != c.want {
			t.Errorf("natless %s: exit status %d, want %d: %v", c.words, got, c.want, err)
		}
		if err != nil && (!strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "arg(s)")) {
			t.Errorf("natless %s: %v, want %q", c.words, err, c.says)
		}
	}
}

// placeholders are what a value of a flag may be called.
var placeholders = []string{"file", "directory", "program", "path", "name", "network", "pool", "address", "prefix", "mapping", "workload", "port",
	"ports", "packets", "protocol", "reason", "direction", "count", "duration", "bytes", "size", "time", "column", "format", "way"}

// TestFlags: each flag's value is called by what it is, each flag says what it is
// for, and a shell that completes it is not offered files that it is not.
func TestFlags(t *testing.T) {
	root := newRoot(&options{})
	each(root, func(c *cobra.Command) {
		c.InitDefaultHelpFlag()
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			name, usage := pflag.UnquoteUsage(f)
			if usage == "" {
				t.Errorf("%s --%s says nothing", c.CommandPath(), f.Name)
			}
			if f.Value.Type() == "bool" {
				return
			}
			if !slices.Contains(placeholders, name) {
				t.Errorf("%s --%s %s: is none of %v", c.CommandPath(), f.Name, name, placeholders)
			}
			if _, completes := c.GetFlagCompletionFunc(f.Name); !completes && !slices.Contains([]string{"file", "directory", "program", "path"}, name) {
				t.Errorf("%s --%s %s completes with files", c.CommandPath(), f.Name, name)
			}
		})
		takesArguments := regexp.MustCompile(`[A-Z]{3,}`).MatchString(c.Use)
		takesFile := regexp.MustCompile(`FILE|BACKUP|DIRECTORY|COMMAND`).MatchString(c.Use)
		if takesArguments && !takesFile && c.ValidArgsFunction == nil {
			t.Errorf("%s completes its arguments with files", c.CommandPath())
		}
	})
}

// TestPlurals: nothing counts "1 workloads".
func TestPlurals(t *testing.T) {
	socket := daemon(t)
	run(t, socket, "workloads", "delete", "ns/db")
	one := regexp.MustCompile(`\b1 \w+s\b`)
	for _, words := range []string{"status", "pools", "workloads show ns/web"} {
		for _, found := range one.FindAllString(run(t, socket, strings.Fields(words)...), -1) {
			t.Errorf("natless %s: %q", words, found)
		}
	}
}
