package registry

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/natless/natless/config/api"
)

// ErrNotFound says that no workload has, or had, what was asked for.
var ErrNotFound = errors.New("not found")

// FieldError is a request that can never be granted as it is.
type FieldError struct {
	Field  string // of api.Request or api.Key, by its JSON name
	Reason string
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Reason }

func field(name, format string, args ...any) error {
	return &FieldError{name, fmt.Sprintf(format, args...)}
}

// ExhaustedError: the pool has nothing left that fits the request.
type ExhaustedError struct {
	Usage   api.Pool
	Want    int        // ports in a row; 65536: a whole address
	Extra   []uint16   // and these besides
	Address netip.Addr // the only address that would do, if valid
	// FirstUse is how many of its workloads nobody announced: who was asked knows.
	FirstUse int
}

func (e *ExhaustedError) Error() string {
	if e.Usage.Fleet && len(e.Usage.Addresses) == 0 {
		return fmt.Sprintf("pool %q has no address: the fleet has lent this host no block for it (natless blocks), or has not said so "+
			"since the host was booted: natless-fleet agent asks for one", e.Usage.Name)
	}
	what := fmt.Sprintf("%d ports in a row", e.Want)
	if e.Usage.WholeAddress {
		what = "whole address"
	}
	if len(e.Extra) > 0 {
		what += fmt.Sprintf(" with %v besides", e.Extra)
	}
	where := ""
	if e.Address.IsValid() {
		where = " on " + e.Address.String()
	}
	u, barred, host := e.Usage, "", ""
	if n := u.Barred(); n > 0 {
		barred = fmt.Sprintf(" (%d of them held by others on the host's links)", n)
	}
	if u.PortsOfHost > 0 {
		host = fmt.Sprintf(", the host itself uses %d (natless status says who)", u.PortsOfHost)
	}
	return fmt.Sprintf("pool %q is exhausted: no %s free%s; %d workloads have %d of %d ports on %d addresses%s, %d more cool "+
		"down%s: %s", u.Name, what, where, u.Workloads, u.PortsUsed, u.Ports, len(u.Addresses), barred, u.PortsCooling, host, e.remedy())
}

// remedy is what to do in a pool of this kind.
func (e *ExhaustedError) remedy() string {
	more := "add addresses to the pool, or lower ports_per_workload for new workloads"
	switch {
	case e.Usage.Fleet:
		more = "see whether the fleet has more blocks (natless-fleet status)"
	case e.Usage.WholeAddress:
		more = "add addresses to the pool"
	}
	if e.FirstUse > 0 {
		more += fmt.Sprintf(", or leave more of it to those who are announced: %d workloads have theirs by first use, which first_use.most bounds "+
			"(natless workloads --name 'first-use/*')", e.FirstUse)
	}
	return "free a workload, or " + more
}

// InsideError: the workload cannot have its IPv4 inside.
type InsideError struct{ Reason string }

func (e *InsideError) Error() string { return "inside: " + e.Reason }

// ConflictError: somebody else has the very thing.
type ConflictError struct {
	Field string // of the request
	What  string // an address, or address:port
	Owner api.Key
	Name  string // the owner's
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("%s belongs to workload %s (%s)", e.What, e.Owner, e.Name)
}

// AmbiguousError: by the clock, which was set back, two had the same at a time.
type AmbiguousError struct {
	Address netip.AddrPort
	Owners  []*Assignment
}

func (e *AmbiguousError) Error() string {
	var owners []string
	for _, o := range e.Owners {
		until := "now"
		if !o.Until.IsZero() {
			until = o.Until.UTC().Format(time.RFC3339)
		}
		owners = append(owners, fmt.Sprintf("%s (%s) from %s to %s", o.Key, o.Request.Name, o.Since.UTC().Format(time.RFC3339), until))
	}
	return fmt.Sprintf("the clock of this host was set back: by it, more than one had %s then: %s", e.Address, strings.Join(owners, "; "))
}

// WriteError: the disk does not take what was to be written. Nothing has
// changed, and the same can be asked again when it does.
type WriteError struct {
	Path string
	Err  error
	// Unknown: the disk failed so that it may have it all the same.
	Unknown bool
}

func (e *WriteError) Error() string {
	if e.Unknown {
		return fmt.Sprintf("registry %s: %v: whether the last change was made is not known, and nothing more is written: restart "+
			"natlessd, which finds out", e.Path, e.Err)
	}
	return fmt.Sprintf("registry %s: nothing was changed: %v%s", e.Path, e.Err, writeRemedy(e.Err))
}

func (e *WriteError) Unwrap() error { return e.Err }

func writeRemedy(err error) string {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return ": make room on its disk"
	case errors.Is(err, syscall.EROFS):
		return ": mount its file system read-write again"
	}
	return ""
}
