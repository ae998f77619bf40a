//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// underTraffic is the check that a verb of the service disturbs no flow.
func underTraffic(verb string, lossAllowed int) func(context.Context, *tester) (string, error) {
	return func(ctx context.Context, t *tester) (string, error) {
		note, err := t.underTraffic(ctx, lossAllowed, func() error {
			if err := t.lab.service(ctx, verb); err != nil {
				return err
			}
			return t.ready(ctx)
		})
		if err != nil {
			return "", err
		}
		return note, t.same(ctx)
	}
}

// ready waits until the daemon is.
func (t *tester) ready(ctx context.Context) (err error) {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if _, err = t.version(ctx); err == nil {
			return nil
		}
	}
	return err
}

// same reports whether the assignments are as first given.
func (t *tester) same(ctx context.Context) error {
	after, err := t.workloads(ctx)
	if err != nil {
		return err
	}
	if fmt.Sprint(after) != fmt.Sprint(t.before) {
		return fmt.Errorf("assignments: %v, were %v", after, t.before)
	}
	return nil
}

func upgrade(ctx context.Context, t *tester) (string, error) {
	before, err := t.version(ctx)
	if err != nil {
		return "", err
	}
	note, err := t.underTraffic(ctx, 0, func() error {
		if err := t.lab.install(ctx, second); err != nil {
			return err
		}
		return t.ready(ctx)
	})
	if err != nil {
		return "", err
	}
	after, err := t.version(ctx)
	if err != nil {
		return "", err
	}
	if after == before {
		return "", fmt.Errorf("%s still runs", after)
	}
	return fmt.Sprintf("%s, then %s. %s", before, after, note), t.same(ctx)
}

// reboot looks at the assignments before the containers are back, and after.
func reboot(ctx context.Context, t *tester) (string, error) {
	t.endProbes()
	if err := t.lab.reboot(ctx); err != nil {
		return "", err
	}
	if err := t.ready(ctx); err != nil {
		return "", err
	}
	if err := t.same(ctx); err != nil {
		return "", fmt.Errorf("when the host is back: %w", err)
	}
	if _, err := t.provision(ctx, "containers up"); err != nil {
		return "", err
	}
	if err := t.same(ctx); err != nil {
		return "", fmt.Errorf("when the containers are back: %w", err)
	}
	return fmt.Sprint(t.before), t.startServers(ctx)
}

// purge compares the host with what it was before the package came.
func purge(ctx context.Context, t *tester) (string, error) {
	t.endProbes()
	files, err := t.sh(ctx, host, "dpkg -L natless")
	if err != nil {
		return "", err
	}
	if _, err := t.provision(ctx, "containers down"); err != nil {
		return "", err
	}
	if err := t.lab.purge(ctx); err != nil {
		return "", err
	}
	out, err := t.sh(ctx, host, "for f in %s; do [ ! -e $f ] || dpkg -S $f >/dev/null 2>&1 || echo $f; done",
		strings.Join(strings.Fields(strings.Replace(files, "/.\n", "", 1)), " "))
	if err != nil {
		return "", err
	}
	left := strings.Fields(out)
	before, err := t.provision(ctx, "before")
	if err != nil {
		return "", err
	}
	after, err := t.provision(ctx, "snapshot")
	if err != nil {
		return "", err
	}
	left = append(left, difference(before, after)...)
	if len(left) > 0 {
		return "", errors.New("left behind, or gone with it:\n" + strings.Join(left, "\n"))
	}
	return fmt.Sprintf("%d files of the package gone; %d lines about files, people, devices, routes, rules and sysctls as before",
		strings.Count(files, "\n"), strings.Count(before, "\n")), nil
}

// difference is the lines that are in one text only, with + or -.
func difference(before, after string) (lines []string) {
	b, a := strings.Split(before, "\n"), strings.Split(after, "\n")
	for _, line := range a {
		if !slices.Contains(b, line) {
			lines = append(lines, "+ "+line)
		}
	}
	for _, line := range b {
		if !slices.Contains(a, line) {
			lines = append(lines, "- "+line)
		}
	}
	return lines
}
