package server

import (
	"net/http"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/lease"
)

// maxBlocks bounds the body of a set, in bytes.
const maxBlocks = lease.Most * 256

// putBlocks is the route of a set, whose body may be larger than others.
const putBlocks = "PUT /v1/blocks"

func (s *Server) blocks(*http.Request) (any, error) {
	if s.Blocks == nil {
		return api.Blocks{Blocks: []api.HeldBlock{}, Returned: []api.ReturnedBlock{}, Pools: []api.BlockPool{}}, nil
	}
	return s.Blocks(), nil
}

func (s *Server) putBlocks(r *http.Request) (any, error) {
	if s.PutBlocks == nil {
		return nil, &api.Problem{Code: api.CodeNotFound, Detail: "there are no blocks here"}
	}
	var set api.BlockSet
	if err := decodeSet(r.Body, &set, "blocks"); err != nil {
		return nil, err
	}
	if set.Blocks == nil {
		return nil, invalid("blocks", "is missing: [] has this host give up all")
	}
	p := peerOf(r.Context())
	got, err := s.PutBlocks(r.Context(), set)
	if err != nil {
		s.Log.Warn("a set of blocks was refused", "epoch", set.Epoch, "blocks", len(set.Blocks), "err", err, "uid", p.uid, "pid", p.pid)
	}
	return some(got, err)
}
