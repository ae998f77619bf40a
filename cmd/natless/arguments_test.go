package main

import (
	"bytes"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
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
		{"statsu", exitUsage, `unknown command "statsu" for "natless": is it status?`},
		{"bogus", exitUsage, `unknown command "bogus" for "natless": there are blocks, bugtool, capture, cni,`},
		{"cni bogus", exitUsage, `unknown command "bogus" for "natless cni": there are install, uninstall`},
		{"registry bogus", exitUsage, `unknown command "bogus" for "natless registry"`},
		{"workloads bogus", exitUsage, `unknown command "bogus" for "natless workloads"`},
		{"help bogus", exitUsage, `there is no command "bogus"`},
		{"status extra", exitUsage, `"extra": natless status takes no arguments`},
		{"status --bogus", exitUsage, "unknown flag: --bogus (natless status --help lists the flags)"},
		{"status -o xml", exitUsage, "is neither text nor json"},
		{"whois", exitUsage, "ADDRESS[:PORT] is missing: natless whois ADDRESS[:PORT]"},
		{"whois a b", exitUsage, `"b": natless whois takes 1 argument`},
		{"whois 198.51.100.1:x", exitUsage, "is not an address"},
		{"whois 198.51.100.1:1 --at noon", exitUsage, "--at"},
		{"whois 198.51.100.1:444", exitFailed, "nobody has 198.51.100.1:444"},
		{"workloads show", exitUsage, "WORKLOAD is missing"},
		{"workloads show nobody", exitFailed, "no workload is called"},
		{"workloads --pool nowhere", exitFailed, "there are default, dedicated"},
		{"workloads --sort shoe", exitUsage, "is none of name,"},
		{"workloads --address x", exitUsage, "is neither an address nor ADDRESS/LEN"},
		{"registry restore", exitUsage, "BACKUP is missing"},
		{"registry check a b", exitUsage, "takes 1 argument"},
		{"explain", exitUsage, "PACKET-IN-WORDS is missing"},
		{"explain --config a --prefix b x", exitUsage, "leave out --prefix and --map"},
		{"explain --prefix b x", exitUsage, "--prefix"},
		{"monitor --address=x", exitUsage, "--address"},
		{"monitor --for long", exitUsage, "--for"},
		{"capture", exitUsage, "name the file: -w FILE"},
		{"capture -w x --max-size huge", exitUsage, "--max-size"},
		{"reload", exitFailed, "prefix: is wrong"},
	} {
		o := &options{}
		root := newRoot(o)
		root.SetOut(new(bytes.Buffer))
		root.SetErr(new(bytes.Buffer))
		root.SetArgs(append(strings.Fields(c.words), "--socket", socket))
		err := root.ExecuteContext(t.Context())
		if got := o.status(err); got != c.want {
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
