package registry

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/natless/natless/config/api"
)

// ErrNotFound: nobody has, or had, what was asked for.
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
}

func (e *ExhaustedError) Error() string {
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
	return fmt.Sprintf("pool %q is exhausted: no %s free%s; %d workloads have %d of %d ports on %d addresses%s, %d more cool down%s: free a workload, or add addresses to the pool",
		u.Name, what, where, u.Workloads, u.PortsUsed, u.Ports, len(u.Addresses), barred, u.PortsCooling, host)
}

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
