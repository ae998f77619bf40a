package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/natless/natless/cmd/internal/cli"
	"github.com/natless/natless/cmd/internal/doctor"
)

// terminal is a narrow one.
type terminal struct{ bytes.Buffer }

func (*terminal) Size() (columns, lines int) { return 80, 24 }

// every has for each command of the tree words to run it with. A command that is not here
// has nothing to say to a daemon, or is proven elsewhere; see skipped.
var every = []struct {
	words string
	bad   string // words that are wrong
	alone bool   // it needs no daemon
	lines bool   // with -o json, a line of JSON for each thing
}{
	{words: "status", bad: "status now"},
	{words: "workloads", bad: "workloads --sort shoe"},
	{words: "workloads list --sort -sent", bad: "workloads list --address x"},
	{words: "workloads show ns/web", bad: "workloads show"},
	{words: "workloads delete ns/db", bad: "workloads delete a b"},
	{words: "top --once -d 100ms", bad: "top --interval 1ms"},
	{words: "top -n 1 -d 100ms", bad: "top --sort shoe", lines: true},
	{words: "flows", bad: "flows --remote x", lines: true},
	{words: "flows --top remote", bad: "flows --top shoe"},
	{words: "whois 198.51.100.0", bad: "whois 1.2.3"},
	{words: "whois 198.51.100.0:20000", bad: "whois 198.51.100.0:x"},
	{words: "pools", bad: "pools default"},
	{words: "pools --all", bad: "pools --every"},
	{words: "blocks", bad: "blocks default"},
	{words: "drain --pool dedicated", bad: "drain dedicated"},
	{words: "undrain --pool dedicated", bad: "undrain dedicated"},
	{words: "explain ipv6 src 2001:db8::1 dst 2001:db8::2 tcp", bad: "explain --map x y"},
	{words: "explain --prefix 64:ff9b::/96 --map 2001:db8::1=192.0.2.1 ipv6 src 2001:db8::1 dst 64:ff9b::192.0.2.2 tcp sport 1 dport 2",
		bad: "explain --prefix x y", alone: true},
	{words: "policy list", bad: "policy list all"},
	{words: "policy explain ns/web", bad: "policy explain"},
	{words: "policy test ns/web out tcp 203.0.113.7 443", bad: "policy test ns/web off tcp 203.0.113.7 443"},
	{words: "version", bad: "version short", alone: true},
	{words: "registry new FILE", bad: "registry new a b", alone: true},
	{words: "registry check FILE", bad: "registry check a b", alone: true},
}

// skipped are commands that are proven elsewhere, or show their help.
var skipped = map[string]string{
	"natless": "", "natless relay": "tests/e2e", "natless fleet": "TestFleet", "natless cni": "", "natless registry": "", "natless policy": "", "natless demo": "cmd/internal/demo", "natless help": "", "natless cni install": "TestCNI",
	"natless cni uninstall": "TestCNI", "natless monitor": "tests/monitor", "natless capture": "tests/monitor", "natless reload": "TestCommands",
	"natless registry backup": "TestRegistry", "natless registry restore": "TestRegistry", "natless registry salvage": "TestRegistry",
	"natless doctor": "TestNarrowDoctor, tests/mistakes", "natless bugtool": "tests/mistakes",
}

func executes(t *testing.T, socket, words string, out *terminal) (status int, said string) {
	t.Helper()
	o := &options{}
	root := newRoot(o)
	root.SetOut(out)
	root.SetErr(out)
	root.SetArgs(append(strings.Fields(words), "--socket", socket))
	if err := root.ExecuteContext(t.Context()); err != nil {
		return o.begun.Status(err), advise(socket, err).Error()
	}
	return 0, ""
}

// TestEveryCommand: with a daemon and without one, as text on a terminal of 80 columns
// and as JSON, with good arguments and with bad ones.
func TestEveryCommand(t *testing.T) {
	t.Setenv("LC_ALL", "C.UTF-8")
	file, nobody := filepath.Join(t.TempDir(), "r.db"), filepath.Join(t.TempDir(), "none")
	known := map[string]bool{}
	for _, c := range every {
		words := strings.ReplaceAll(c.words, "FILE", file)
		root := newRoot(&options{})
		if found, _, err := root.Find(strings.Fields(words)); err == nil {
			known[found.CommandPath()] = true
		}
		socket := daemon(t)

		var text terminal
		if status, said := executes(t, socket, words, &text); status != 0 || text.Len() == 0 {
			t.Errorf("natless %s: exit status %d, %s\n%s", words, status, said, &text)
		}
		for line := range strings.Lines(text.String()) {
			if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 80 {
				t.Errorf("natless %s: a line has %d columns: %s", words, n, line)
			}
		}

		if strings.HasPrefix(words, "workloads delete") || strings.HasPrefix(words, "registry new") { // once
			socket = daemon(t)
			os.Remove(file)
			os.Remove(file + ".exists")
		}
		var machine terminal
		if status, said := executes(t, socket, words+" -o json", &machine); status != 0 || !json.Valid(machine.Bytes()) {
			t.Errorf("natless %s -o json: exit status %d, %s\n%s", words, status, said, &machine)
		}
		if c.lines && strings.Count(machine.String(), "\n") != 1 {
			t.Errorf("natless %s -o json: not one line\n%s", words, &machine)
		}

		if status, said := executes(t, socket, c.bad, new(terminal)); status != cli.Wrong || said == "" || strings.Contains(said, "arg(s)") {
			t.Errorf("natless %s: exit status %d, %q", c.bad, status, said)
		}
		for _, form := range []string{"", " -o json"} {
			status, said := executes(t, nobody, words+form, new(terminal))
			switch {
			case c.alone: // which has been made meanwhile, where it makes something
			case status != cli.Failed || !strings.Contains(said, "is natlessd running"):
				t.Errorf("natless %s%s without a daemon: exit status %d, %q", words, form, status, said)
			}
		}
	}
	each(newRoot(&options{}), func(c *cobra.Command) {
		if _, skip := skipped[c.CommandPath()]; !known[c.CommandPath()] && !skip && !strings.Contains(c.CommandPath(), "completion") && !c.Hidden {
			t.Errorf("%s is not tried", c.CommandPath())
		}
	})
}

// TestNarrowDoctor: a finding, and what to do, stay within a terminal.
func TestNarrowDoctor(t *testing.T) {
	var out terminal
	printFinding(&out, doctor.Finding{Check: "anti-spoofing", State: doctor.Warn, Detail: strings.Repeat("some words ", 20) + "\nand a line",
		Remedy: strings.Repeat("do this ", 20)})
	if strings.Count(out.String(), "\n") < 7 {
		t.Error(out.String())
	}
	for line := range strings.Lines(out.String()) {
		if utf8.RuneCountInString(line) > 81 {
			t.Errorf("%d columns: %s", utf8.RuneCountInString(line), line)
		}
	}
}
