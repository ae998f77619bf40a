//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

var errNotEach = errors.New("want some of each")

// fastPath looks at what the checks before it went through: with the fast path
// the kernel itself must have translated some of it in each direction, and
// nothing without. It takes to a container's interface a moment after ADD, which
// on a busy machine may be behind those checks: then there is more for it.
func fastPath(ctx context.Context, t *tester) (string, error) {
	for end := time.Now().Add(time.Minute); ; {
		note, err := t.shareOfKernel(ctx)
		if !errors.Is(err, errNotEach) || time.Now().After(end) {
			return note, err
		}
		for _, more := range []func(context.Context, *tester) (string, error){outward, inward} {
			if _, err := more(ctx, t); err != nil {
				return "", err
			}
		}
	}
}

func (t *tester) shareOfKernel(ctx context.Context) (string, error) {
	var s struct {
		FastPath struct {
			Mode       string `json:"mode"`
			State      string `json:"state"`
			Detail     string `json:"detail"`
			Attach     string `json:"attach"`
			Translated map[string]struct {
				Packets uint64 `json:"packets"`
			} `json:"translated"`
		} `json:"fast_path"`
		Verdicts map[string]uint64 `json:"verdicts"`
	}
	if err := shJSON(ctx, t.lab, host, "natless status -o json", &s); err != nil {
		return "", err
	}
	to4, to6 := s.FastPath.Translated["forward4"].Packets, s.FastPath.Translated["forward6"].Packets
	note := fmt.Sprintf("%s by %s; the kernel translated %d of %d packets 6→4, %d of %d packets 4→6", s.FastPath.State, s.FastPath.Attach,
		to4, s.Verdicts["forward4"], to6, s.Verdicts["forward6"])
	switch {
	case t.fastPath != "" && s.FastPath.Mode != t.fastPath:
		return "", fmt.Errorf("fast_path is %q, want %q", s.FastPath.Mode, t.fastPath)
	case s.FastPath.State == "on" && t.fastPath != "off":
		if to4 == 0 || to6 == 0 {
			status, _ := t.sh(ctx, host, "natless status")
			return "", fmt.Errorf("%s: %w\n%s", note, errNotEach, status)
		}
		return note, nil
	case s.FastPath.State == "off" && to4+to6 == 0 && t.fastPath == "off":
		return fmt.Sprintf("off; natlessd translated %d packets 6→4, %d packets 4→6", s.Verdicts["forward4"], s.Verdicts["forward6"]), nil
	}
	return "", fmt.Errorf("fast_path %s: %s: %s", t.fastPath, note, s.FastPath.Detail)
}
