package server

import (
	"bytes"
	"net/http"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/natless/natless/config/api"
)

// profiles are those that tell something without being switched on elsewhere;
// that of the CPU is taken while one waits.
var profiles = []string{"cpu", "heap", "allocs", "goroutine", "threadcreate"}

// maxProfile bounds a profile of the CPU, in seconds, so that it is answered
// before the connection times out.
const maxProfile = 50

// profile takes a profile of this process, in the format of pprof.
func (s *Server) profile(r *http.Request) (any, error) {
	name := r.PathValue("profile")
	if !s.Profiles {
		return nil, &api.Problem{Code: api.CodeNotFound,
			Detail: "profiles are off: set api.pprof to true in the configuration and restart natlessd"}
	}
	if !slices.Contains(profiles, name) {
		return nil, &api.Problem{Code: api.CodeNotFound, Detail: "no profile " + strconv.Quote(name) + "; there are " +
			strings.Join(profiles, ", ")}
	}
	seconds := 10
	if text := r.URL.Query().Get("seconds"); text != "" {
		var err error
		if seconds, err = strconv.Atoi(text); err != nil || name != "cpu" || seconds < 1 || seconds > maxProfile {
			return nil, invalid("seconds", "must be a number from 1 to 50, and is for cpu alone")
		}
	}
	var b bytes.Buffer
	if name != "cpu" {
		if name == "heap" {
			runtime.GC() // what it shows is as of the last collection
		}
		err := pprof.Lookup(name).WriteTo(&b, 0)
		return raw{contentType: "application/octet-stream", body: b.Bytes()}, err
	}
	if err := pprof.StartCPUProfile(&b); err != nil {
		return nil, &api.Problem{Code: api.CodeConflict, Detail: "another profile of the CPU is being taken: try again when it is done"}
	}
	select {
	case <-time.After(time.Duration(seconds) * time.Second):
	case <-r.Context().Done():
	}
	pprof.StopCPUProfile()
	return raw{contentType: "application/octet-stream", body: b.Bytes()}, nil
}
