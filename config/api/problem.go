package api

import "fmt"

// Code names a kind of error for programs. Codes are never renamed.
type Code string

// The codes, each with its HTTP status.
const (
	CodeInvalid          Code = "invalid_request"    // 400, Field says which
	CodeForbidden        Code = "forbidden"          // 403, the peer is neither root nor of the group
	CodeNotFound         Code = "not_found"          // 404
	CodeMethodNotAllowed Code = "method_not_allowed" // 405
	CodeConflict         Code = "conflict"           // 409, somebody else has it: Detail says who
	CodeTooLarge         Code = "too_large"          // 413
	CodeExhausted        Code = "pool_exhausted"     // 507, Pool says which, Detail how full
	CodeDrained          Code = "drained"            // 503, the host, or the pool that Pool says, takes no new workloads
	CodeNoInside         Code = "inside_unavailable" // 501, no IPv4 inside of workloads here, or of this one: Detail says why
	CodeRateLimited      Code = "rate_limited"       // 429, try again a little later
	CodeInternal         Code = "internal"           // 500
	CodeReloadRefused    Code = "reload_refused"     // 422, the new config is wrong, the old one stays
	CodeStorage          Code = "storage_failed"     // 503, the registry's disk is full or fails: try again later
	CodeStarting         Code = "starting"           // 503, try again a little later
	CodeStale            Code = "stale"              // 409, what was said is older than what is known: Detail says what
	CodeInUse            Code = "in_use"             // 409, a block that was to go is in use: Detail says by whom
	CodeShrinks          Code = "shrinks"            // 409, more blocks would go at once than is believed without a word
	CodeUnavailable      Code = "unavailable"        // made by the client: nobody answers on the socket
)

// Problem is every error of the API (RFC 9457, application/problem+json).
// Compare with errors.Is and a Problem that has nothing but a Code:
//
//	errors.Is(err, api.ErrNotFound)
type Problem struct {
	Type   string `json:"type"` // about:blank
	Title  string `json:"title"`
	Status int    `json:"status"`
	Code   Code   `json:"code"`
	Detail string `json:"detail"`
	Field  string `json:"field,omitempty"` // of the request, as in ipv6[0]
	Pool   string `json:"pool,omitempty"`
	Err    error  `json:"-"` // what the client met, for CodeUnavailable
}

// For errors.Is.
var (
	ErrInvalid     = &Problem{Code: CodeInvalid}
	ErrForbidden   = &Problem{Code: CodeForbidden}
	ErrNotFound    = &Problem{Code: CodeNotFound}
	ErrConflict    = &Problem{Code: CodeConflict}
	ErrExhausted   = &Problem{Code: CodeExhausted}
	ErrDrained     = &Problem{Code: CodeDrained}
	ErrNoInside    = &Problem{Code: CodeNoInside}
	ErrRateLimited = &Problem{Code: CodeRateLimited}
	ErrStorage     = &Problem{Code: CodeStorage}
	ErrStale       = &Problem{Code: CodeStale}
	ErrInUse       = &Problem{Code: CodeInUse}
	ErrShrinks     = &Problem{Code: CodeShrinks}
	ErrStarting    = &Problem{Code: CodeStarting}
	ErrUnavailable = &Problem{Code: CodeUnavailable}
)

// Error is the detail, with the field in front.
func (p *Problem) Error() string {
	if p.Field != "" {
		return fmt.Sprintf("%s: %s", p.Field, p.Detail)
	}
	if p.Detail == "" {
		return string(p.Code)
	}
	return p.Detail
}

// Is reports whether target is a Problem of the same code.
func (p *Problem) Is(target error) bool {
	other, ok := target.(*Problem)
	return ok && other.Code == p.Code
}

// Unwrap is what the client met.
func (p *Problem) Unwrap() error { return p.Err }
