package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/translator/mapping"
)

var statuses = map[api.Code]int{
	api.CodeInvalid:          http.StatusBadRequest,
	api.CodeForbidden:        http.StatusForbidden,
	api.CodeNotFound:         http.StatusNotFound,
	api.CodeMethodNotAllowed: http.StatusMethodNotAllowed,
	api.CodeConflict:         http.StatusConflict,
	api.CodeTooLarge:         http.StatusRequestEntityTooLarge,
	api.CodeReloadRefused:    http.StatusUnprocessableEntity,
	api.CodeNoInside:         http.StatusNotImplemented,
	api.CodeRateLimited:      http.StatusTooManyRequests,
	api.CodeInternal:         http.StatusInternalServerError,
	api.CodeStarting:         http.StatusServiceUnavailable,
	api.CodeStorage:          http.StatusServiceUnavailable,
	api.CodeExhausted:        http.StatusInsufficientStorage,
	api.CodeStale:            http.StatusConflict,
	api.CodeInUse:            http.StatusConflict,
	api.CodeShrinks:          http.StatusConflict,
	api.CodeDrained:          http.StatusServiceUnavailable,
}

// problemOf says in the API's words what went wrong.
func problemOf(err error) *api.Problem {
	var p *api.Problem
	var wrong *registry.FieldError
	var full *registry.ExhaustedError
	var drained *registry.DrainedError
	var conflict *registry.ConflictError
	var inside *registry.InsideError
	var ambiguous *registry.AmbiguousError
	var disk *registry.WriteError
	var tooLarge *http.MaxBytesError
	var mapped *mapping.Collision
	switch {
	case errors.As(err, &p):
		return p
	case errors.As(err, &wrong):
		return &api.Problem{Code: api.CodeInvalid, Field: wrong.Field, Detail: wrong.Reason}
	case errors.As(err, &full):
		return &api.Problem{Code: api.CodeExhausted, Pool: full.Usage.Name, Detail: err.Error()}
	case errors.As(err, &drained):
		return &api.Problem{Code: api.CodeDrained, Pool: drained.Pool, Detail: err.Error()}
	case errors.As(err, &inside):
		return &api.Problem{Code: api.CodeNoInside, Field: "inside", Detail: inside.Reason}
	case errors.As(err, &conflict):
		return &api.Problem{Code: api.CodeConflict, Field: conflict.Field, Detail: conflict.Error()}
	case errors.As(err, &mapped): // the table has nothing but assignments, which the registry knows, and these
		return &api.Problem{Code: api.CodeConflict, Field: "ipv6[0]", Detail: fmt.Sprintf(
			"the configuration maps it itself (%v): take that mapping out of mappings or mappings_file and reload (natless reload), "+
				"or attach this container to a network without natless-cni", mapped.With)}
	case errors.As(err, &ambiguous):
		return &api.Problem{Code: api.CodeConflict, Detail: err.Error()}
	case errors.As(err, &disk):
		return &api.Problem{Code: api.CodeStorage, Detail: err.Error()}
	case errors.Is(err, registry.ErrBusy):
		return &api.Problem{Code: api.CodeRateLimited, Detail: err.Error()}
	case errors.Is(err, registry.ErrNotFound):
		return &api.Problem{Code: api.CodeNotFound, Detail: err.Error()}
	case errors.As(err, &tooLarge):
		return &api.Problem{Code: api.CodeTooLarge, Detail: fmt.Sprintf("the request is larger than %d KiB", tooLarge.Limit>>10)}
	}
	return &api.Problem{Code: api.CodeInternal, Detail: err.Error()}
}

func invalid(field, detail string) error {
	return &api.Problem{Code: api.CodeInvalid, Field: field, Detail: detail}
}

// fail answers with a problem document.
func fail(w http.ResponseWriter, err error) {
	p := *problemOf(err)
	p.Type = "about:blank"
	p.Status = statuses[p.Code]
	p.Title = http.StatusText(p.Status)
	switch p.Code {
	case api.CodeStarting, api.CodeRateLimited:
		w.Header().Set("Retry-After", "1")
	case api.CodeStorage:
		w.Header().Set("Retry-After", "10")
	}
	answer(w, p.Status, "application/problem+json", p)
}

func answer(w http.ResponseWriter, status int, contentType string, v any) {
	b, err := json.Marshal(v)
	if err != nil { // a type of ours that has no JSON
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	w.Write(append(b, '\n')) // who left does not hear it
}
