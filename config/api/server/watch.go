package server

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/natless/natless/config/api"
)

// maxBytes is how much of one packet may be asked for: all of the longest.
const maxBytes = 1<<16 + 1024

// Send writes a part of a stream to the reader, who may take his time: the error
// is that he has gone.
type Send func(part []byte) error

// stream is an answer without an end.
type stream struct {
	contentType string
	run         func(ctx context.Context, send Send) error // an error before the first Send is answered
}

// watch answers with packets as they pass.
func (s *Server) watch(r *http.Request) (any, error) {
	if s.Watch == nil {
		return nil, &api.Problem{Code: api.CodeNotFound, Detail: "there are no packets to watch here"}
	}
	q := r.URL.Query()
	w := api.Watch{Filter: q.Get("filter")}
	var err error
	if w.Rate, err = number(q.Get("rate"), 1_000_000_000); err != nil {
		return nil, invalid("rate", err.Error())
	}
	if w.Bytes, err = number(q.Get("bytes"), maxBytes); err != nil {
		return nil, invalid("bytes", err.Error())
	}
	if all := q.Get("all"); all != "" {
		if w.All, err = strconv.ParseBool(all); err != nil {
			return nil, invalid("all", "must be true or false")
		}
	}
	if sample := q.Get("sample"); sample != "" {
		wanted, err := strconv.ParseBool(sample)
		if err != nil {
			return nil, invalid("sample", "must be true or false")
		}
		w.Leave = !wanted
	}
	p := peerOf(r.Context())
	return stream{"application/x-ndjson", func(ctx context.Context, send Send) error {
		looks := false // from the first word on, which is sent when packets are seen
		defer func() {
			if looks {
				s.Log.Info("watches packets no more", "uid", p.uid, "pid", p.pid)
			}
		}()
		return s.Watch(ctx, w, func(part []byte) error {
			if !looks {
				looks = true
				s.Log.Info("somebody watches packets", "filter", w.Filter, "bytes", w.Bytes, "uid", p.uid, "pid", p.pid)
			}
			return send(part)
		})
	}}, nil
}

func number(s string, limit int) (int, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > limit {
		return 0, fmt.Errorf("must be a number from 0 to %d", limit)
	}
	return n, nil
}

// serveStream runs a stream until its reader goes or the server ends. Neither
// the server's time limits nor its end wait for a reader who reads nothing.
func (s *Server) serveStream(w http.ResponseWriter, r *http.Request, st stream) {
	control := http.NewResponseController(w)
	control.SetReadDeadline(time.Time{})
	control.SetWriteDeadline(time.Time{})
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.ending, func() {
		cancel()
		control.SetWriteDeadline(time.Now().Add(time.Second))
	})()
	began := false
	err := st.run(ctx, func(part []byte) error {
		if !began {
			began = true
			w.Header().Set("Content-Type", st.contentType)
		}
		if _, err := w.Write(part); err != nil {
			return err
		}
		return control.Flush()
	})
	if err != nil && !began {
		fail(w, err)
	} else if err != nil && ctx.Err() == nil {
		panic(http.ErrAbortHandler) // cut off, so that the reader knows that the answer is incomplete
	}
}
