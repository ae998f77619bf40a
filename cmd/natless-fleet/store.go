package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/natless/natless/cmd/natless-fleet/fleet"
)

// work is what a command of people's does with the store.
type work func(ctx context.Context, out io.Writer, s fleet.Store, args []string) error

// with has a command do its work, for no longer than people wait.
func (o *options) with(do work) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		ctx, s, done, err := o.ask(c.Context())
		if err != nil {
			return err
		}
		defer done()
		return o.advise(do(ctx, c.OutOrStdout(), s, args))
	}
}

// ask opens the store for people: where no flag names it, what the units of this host are
// told does, and it has to answer within their patience.
func (o *options) ask(from context.Context) (ctx context.Context, s fleet.Store, done context.CancelFunc, err error) {
	if err := o.usual(); err != nil {
		return nil, nil, nil, err
	}
	o.noise = new(lastNoise)
	if s, err = o.open(); err != nil {
		return nil, nil, nil, err
	}
	ctx, done = context.WithTimeout(from, o.patience)
	return ctx, s, done, nil
}

// environment is the variable that the units have their flags of; envFile is where they
// have it from, and credentialsDir their files.
const environment = "NATLESS_FLEET"

var envFile, credentialsDir = "/etc/natless/fleet.env", "/etc/natless/fleet"

// usual takes from the environment, or from what the units are told, where the store is.
func (o *options) usual() error {
	if len(o.endpoints) > 0 || o.kubeconfig != "" || o.inCluster {
		return nil
	}
	text := os.Getenv(environment)
	if text == "" {
		b, err := os.ReadFile(envFile)
		if err != nil {
			return nil // open says what is missing
		}
		for line := range strings.Lines(string(b)) {
			if value, ok := strings.CutPrefix(strings.TrimSpace(line), environment+"="); ok {
				text = strings.Trim(value, `"'`)
			}
		}
	}
	var said options
	f := pflag.NewFlagSet(environment, pflag.ContinueOnError)
	f.ParseErrorsAllowlist.UnknownFlags = true // of an agent, such as --name
	f.SetOutput(io.Discard)
	said.flags(f)
	if err := f.Parse(strings.Fields(text)); err != nil {
		return fmt.Errorf("%s: %w", environment, err)
	}
	o.endpoints, o.kubeconfig, o.inCluster = said.endpoints, said.kubeconfig, said.inCluster
	o.prefix, o.namespace = said.prefix, said.namespace
	o.tls.TrustedCAFile, o.tls.CertFile = cmp.Or(o.tls.TrustedCAFile, said.tls.TrustedCAFile), cmp.Or(o.tls.CertFile, said.tls.CertFile)
	o.tls.KeyFile, o.credentials = cmp.Or(o.tls.KeyFile, said.tls.KeyFile), cmp.Or(o.credentials, said.credentials)
	if _, err := os.Stat(credentialsDir); err == nil && o.credentials == "" {
		o.credentials = credentialsDir
	}
	return nil
}

// advise says in words for people what a store answers.
func (o *options) advise(err error) error {
	switch where := o.where(); {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded):
		why := o.noise.last()
		if why != "" {
			why = ": " + why
		}
		return fmt.Errorf("%s does not answer within %v%s", where, o.patience, why)
	case errors.Is(err, rpctypes.ErrPermissionDenied), errors.Is(err, rpctypes.ErrUserEmpty):
		return fmt.Errorf("%s: %w\n  who asks is known by the certificate (--etcd-cert), and its user needs a role for %s", where, err, o.prefix)
	}
	return err
}

// where names the store.
func (o *options) where() string {
	switch {
	case o.kubeconfig != "":
		return "the Kubernetes API of " + o.kubeconfig
	case o.inCluster:
		return "the Kubernetes API"
	}
	return "etcd at " + strings.Join(o.endpoints, ", ")
}

// lastNoise is what etcd's client said last of why it tries again. It is a zapcore.Core.
type lastNoise struct{ text atomic.Pointer[string] }

func (n *lastNoise) last() string {
	if n == nil || n.text.Load() == nil {
		return ""
	}
	return *n.text.Load()
}

// Enabled is zapcore.Core's.
func (n *lastNoise) Enabled(l zapcore.Level) bool { return l >= zap.WarnLevel }

// With is zapcore.Core's.
func (n *lastNoise) With([]zapcore.Field) zapcore.Core { return n }

// Check is zapcore.Core's.
func (n *lastNoise) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	return c.AddCore(e, n)
}

// Write is zapcore.Core's. What is told of the end of patience itself says nothing.
func (n *lastNoise) Write(_ zapcore.Entry, fields []zapcore.Field) error {
	for _, f := range fields {
		err, is := f.Interface.(error)
		if !is {
			continue
		}
		text := err.Error()
		if _, inner, found := strings.Cut(text, "connection error: desc = "); found {
			text = strings.Trim(inner, `"\`)
		} else if strings.Contains(text, "desc = context") {
			continue
		}
		n.text.Store(&text)
	}
	return nil
}

// Sync is zapcore.Core's.
func (n *lastNoise) Sync() error { return nil }

// first is the first error of some.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// timeout is how long people wait for a store.
const timeout = 15 * time.Second
