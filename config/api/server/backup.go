package server

import (
	"io"
	"net/http"
	"strconv"

	"github.com/natless/natless/config/registry"
)

// attachment is an answer that is copied, and closed.
type attachment struct{ *registry.Copy }

// backup answers with a copy of the registry as it is now.
func (s *Server) backup(r *http.Request) (any, error) {
	c, err := s.Registry.Backup()
	if err != nil {
		return nil, err
	}
	p := peerOf(r.Context())
	s.Log.Info("somebody backs the registry up", "bytes", c.Size, "uid", p.uid, "pid", p.pid)
	return attachment{c}, nil
}

func (s *Server) serveAttachment(w http.ResponseWriter, a attachment) {
	defer a.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(a.Size, 10)) // so that a part is not taken for all
	if _, err := io.Copy(w, a); err != nil {
		panic(http.ErrAbortHandler)
	}
}
