// Package manual makes the manual pages out of what the programs say of
// themselves: the command line of natless, the --help of natlessd, and the
// reference file of the configuration. No text about them may stand here.
package manual

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cpuguy83/go-md2man/v2/md2man"
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/natless/natless/cmd/internal/usage"
	"github.com/natless/natless/config"
)

// Write writes all pages into a directory: natless(1) with a page for each
// subcommand, natlessd(8), natless.yaml(5).
func Write(dir string, natless *cobra.Command, version string, date time.Time) error {
	header := func(title, section string) *doc.GenManHeader {
		return &doc.GenManHeader{Title: title, Section: section, Source: "natless " + version, Manual: "natless", Date: &date}
	}
	natless.DisableAutoGenTag = true // else each page would end with a date of its own
	if err := doc.GenManTree(natless, header("", "1"), dir); err != nil {
		return fmt.Errorf("natless(1): %w", err)
	}
	var page bytes.Buffer
	if err := doc.GenMan(daemon(), header("NATLESSD", "8"), &page); err != nil {
		return fmt.Errorf("natlessd(8): %w", err)
	}
	page.WriteString(".SH SEE ALSO\n\\fBnatless.yaml(5)\\fP, \\fBnatless(1)\\fP\n")
	if err := os.WriteFile(filepath.Join(dir, "natlessd.8"), page.Bytes(), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "natless.yaml.5"), reference(version, date), 0o644)
}

// daemon is natlessd's command line in cobra's terms.
func daemon() *cobra.Command {
	name, rest, _ := strings.Cut(usage.DaemonText, ".\n")
	c := &cobra.Command{
		Use: "natlessd [flags]", Short: strings.TrimPrefix(name, "natlessd "), DisableAutoGenTag: true,
		Long: strings.ReplaceAll(rest, "\n  ", "\n\t"), // what is set in is verbatim
		Run:  func(*cobra.Command, []string) {},
	}
	c.DisableFlagsInUseLine = true
	c.Flags().AddGoFlagSet(new(usage.Daemon).Flags())
	return c
}

// reference is natless.yaml(5): a section for each paragraph of the reference
// file, named after its first key, with the comment above it as text.
func reference(version string, date time.Time) []byte {
	var md strings.Builder
	fmt.Fprintf(&md, "%% \"NATLESS.YAML\" \"5\" %q %q \"natless\"\n", date.Format("Jan 2006"), "natless "+version)
	md.WriteString("# NAME\nnatless.yaml - configuration of natlessd\n# SYNOPSIS\n**/etc/natless/natless.yaml**\n# DESCRIPTION\n")
	for paragraph := range strings.SplitSeq(config.Reference, "\n\n") {
		text, keys := split(paragraph)
		if len(keys) > 0 {
			key, _, _ := strings.Cut(keys[0], ":")
			fmt.Fprintf(&md, "\n# %s\n", strings.ToUpper(key))
		}
		for _, line := range text {
			md.WriteString(line + "\n")
		}
		md.WriteString("\n")
		if len(keys) > 0 {
			md.WriteString("```\n" + strings.Join(keys, "\n") + "\n```\n")
		}
	}
	md.WriteString("\n# SEE ALSO\n**natlessd(8)**, **natless(1)**\n")
	return md2man.Render([]byte(md.String()))
}

// split tells the comment above the keys from the keys. What is set in further
// than the comment is verbatim.
func split(paragraph string) (text, keys []string) {
	for line := range strings.SplitSeq(strings.Trim(paragraph, "\n"), "\n") {
		comment, isComment := strings.CutPrefix(line, "#")
		switch {
		case !isComment || len(keys) > 0:
			keys = append(keys, line)
		case strings.HasPrefix(comment, "   "):
			text = append(text, "\t"+strings.TrimSpace(comment))
		case len(text) > 0 && strings.HasPrefix(text[len(text)-1], "\t"):
			text = append(text, "", strings.TrimSpace(comment))
		case strings.TrimSpace(comment) == "":
			text = append(text, "")
		default:
			text = append(text, strings.TrimSpace(comment))
		}
	}
	return text, keys
}
