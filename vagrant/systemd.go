//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// confined asks systemd what it thinks of the unit, and the journal whether
// the confinement is in the daemon's way.
func confined(ctx context.Context, t *tester) (string, error) {
	if out, err := t.sh(ctx, host, "systemd-analyze verify --man=no natlessd.service natlessd-cleanup.service 2>&1"); err != nil {
		return "", err
	} else if out != "" {
		return "", fmt.Errorf("systemd-analyze verify: %s", out)
	}
	out, err := t.sh(ctx, host, "systemd-analyze security --no-pager natlessd.service | tail -n 1")
	if err != nil {
		return "", err
	}
	_, level, ok := strings.Cut(out, "natlessd.service: ")
	exposure, err := strconv.ParseFloat(strings.Fields(level + " ?")[0], 64)
	if !ok || err != nil {
		return "", fmt.Errorf("systemd-analyze security says %q", out)
	}
	if exposure > 4 {
		return "", fmt.Errorf("exposure %v, want 4 at most", exposure)
	}
	journal, err := t.sh(ctx, host,
		"journalctl -q --no-pager -o cat -b -u natlessd -p err; journalctl -q --no-pager -o cat -b -u natlessd | grep -i -e 'not permitted' -e 'read-only file' -e 'level=ERROR' || true")
	if err != nil {
		return "", err
	}
	if journal != "" {
		return "", errors.New("the journal has\n" + journal)
	}
	return fmt.Sprintf("exposure %v", exposure), nil
}

// watchdog stops the daemon as a hang would.
func watchdog(ctx context.Context, t *tester) (string, error) {
	const restarts = "systemctl show -P NRestarts natlessd"
	before, err := t.sh(ctx, host, restarts)
	if err != nil {
		return "", err
	}
	if _, err := t.sh(ctx, host, "kill -STOP $(systemctl show -P MainPID natlessd)"); err != nil {
		return "", err
	}
	begin := time.Now()
	for after := before; after == before; time.Sleep(2 * time.Second) {
		if after, err = t.sh(ctx, host, restarts); err != nil {
			return "", err
		}
		if time.Since(begin) > 3*time.Minute {
			return "", fmt.Errorf("three minutes after SIGSTOP there are still %s restarts", after)
		}
	}
	if err := t.ready(ctx); err != nil {
		return "", err
	}
	return "by the watchdog", t.same(ctx)
}
