//go:build linux

package main

import (
	"context"
	"errors"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/natless/natless/config/api"
)

// Error codes of our own (CNI spec 1.1, section 5: 100 and above).
const (
	codeExhausted     = 100 // the pool has no room: another pool, or a larger one
	codeConflict      = 101 // the address or port asked for belongs to somebody else
	codeForbidden     = 102 // natlessd does not let this user write
	codeNoIPv6        = 103 // the plugin before gave the container no IPv6 address
	codeUnreachable   = 104 // the container has no way to the translation prefix
	codeSysctl        = 105 // a sysctl in the container cannot be set
	codeNotAssigned   = 106 // CHECK: natlessd knows no such workload
	codeOtherAddress  = 107 // CHECK: natlessd has another IPv6 address for it
	codePortsOverride = 108 // CHECK: somebody changed the port range in the container
	codeNoCommonPorts = 109 // the container's attachments have no ports in common
	codeSource        = 110 // the container's kernel sends from an address that is not mapped
	codeDrained       = 111 // the host, or the pool, takes no new workloads
	codeInside        = 112 // the container cannot have its IPv4 inside
	codeInsideChanged = 113 // CHECK: what it had inside is not as it was made
)

// patience is how long natlessd may take before the runtime is told to try
// again: longer than it ever takes, shorter than runtimes wait. What is given
// back after that is recorded for later if it cannot be said soon.
const (
	patience    = 8 * time.Second
	lastAttempt = 2 * time.Second
)

// problem turns an error of the API into one of CNI.
func problem(err error) error {
	p := new(api.Problem)
	if !errors.As(err, &p) {
		return err
	}
	code := types.ErrInternal
	switch p.Code {
	case api.CodeStarting, api.CodeUnavailable, api.CodeRateLimited, api.CodeStorage:
		code = types.ErrTryAgainLater
	case api.CodeInvalid:
		code = types.ErrInvalidNetworkConfig
	case api.CodeExhausted:
		code = codeExhausted
	case api.CodeDrained:
		code = codeDrained
	case api.CodeConflict:
		code = codeConflict
	case api.CodeNoInside:
		code = codeInside
	case api.CodeForbidden:
		code = codeForbidden
	case api.CodeNotFound:
		code = codeNotAssigned
	}
	return types.NewError(code, "natlessd: "+p.Error(), remedies[p.Code])
}

// byPrefix is the other way.
const byPrefix = `"ipv4": "prefix" gives the container its IPv4 by the translation prefix`

var remedies = map[api.Code]string{
	api.CodeUnavailable: "is natlessd running (systemctl status natlessd), and is the plugin's socket that of its api.socket?",
	api.CodeStarting:    "natlessd is still starting: `natless status` says what it waits for",
	api.CodeRateLimited: "the runtime tries again",
	api.CodeStorage:     "look at the disk of natlessd's registry.path",
	api.CodeExhausted:   "`natless pools` shows how full the pools are; the container starts when there is room: what to do is said above",
	api.CodeDrained:     "somebody drains it on purpose (natless drain); have this container start on another host, or end it with `natless undrain`",
	api.CodeNoInside:    "`natless doctor` says what this host lacks; " + byPrefix,
	api.CodeForbidden:   "run the container runtime as root or in the group of api.group",
	api.CodeConflict:    "`natless whois` and `natless status` say who has it",
}

func within(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}
