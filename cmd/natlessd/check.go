//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/natless/natless/cmd/internal/doctor"
	"github.com/natless/natless/cmd/internal/usage"
	"github.com/natless/natless/cmd/internal/version"
	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
)

// check is natlessd --check.
func check(c *config.Config, given usage.Daemon, stdout, stderr io.Writer) int {
	if given.Host && !fits(c, given.Config, stderr) {
		return misconfigured
	}
	fmt.Fprintf(stdout, "%s: nothing wrong\n", given.Config)
	return 0
}

// fits reports whether a configuration can work on this host, in the words of natless
// doctor. Warnings are told, and no reason not to start.
func fits(c *config.Config, path string, w io.Writer) bool {
	findings := doctor.BeforeStart(context.Background(), doctor.Patient{Config: c, ConfigPath: path, Client: api.NewClient(c.API.Socket),
		Version: version.String(), Host: doctor.ThisHost{Device: c.Device.Name}, Now: time.Now()})
	for _, f := range findings {
		if f.State != doctor.OK {
			fmt.Fprintf(w, "%s: %s: %s: %s\n  → %s\n", path, f.State, f.Check, f.Detail, f.Remedy)
		}
	}
	return doctor.Worst(findings) != doctor.Fail
}
