package api

import (
	"context"
	"net/http"
	"net/netip"
)

// Block is IPv4 addresses that a fleet has lent this host, for one of its pools.
type Block struct {
	IPv4 netip.Prefix `json:"ipv4"`
	Pool string       `json:"pool"`
	// Lease is the number of the loan: each time the addresses are lent to somebody it
	// is a higher one. A loan that a host has ended never begins again.
	Lease uint64 `json:"lease"`
	// Draining: no new workload gets anything of it, those that have something keep it.
	Draining bool `json:"draining,omitempty"`
}

// BlockSet is all blocks that this host has from now on. What it does not name is
// given up, unless somebody has something of it.
type BlockSet struct {
	// Epoch is the age of the view that the set was made of: an older one than before
	// is refused.
	Epoch  uint64  `json:"epoch"`
	Blocks []Block `json:"blocks"`
	// Revoked are blocks that an operator took away: who has something of them loses it.
	Revoked []netip.Prefix `json:"revoked,omitempty"`
	// Shrink: an operator says that it is right that much is missing.
	Shrink bool `json:"shrink,omitempty"`
	// Rewind: an operator says that an older epoch is right, as after a backup of the
	// fleet's store was restored.
	Rewind bool `json:"rewind,omitempty"`
}

// Blocks is what this host has of a fleet, and what it would have.
type Blocks struct {
	Epoch  uint64      `json:"epoch"`
	Blocks []HeldBlock `json:"blocks"`
	// Returned are the last loans that this host has ended, by block.
	Returned []ReturnedBlock `json:"returned"`
	Pools    []BlockPool     `json:"pools"`
	// EdgeHost is edge.host: where this host expects what relays lead to it. Absent where it is no edge.
	EdgeHost netip.Prefix `json:"edge_host,omitzero"`
}

// HeldBlock is a block, and what is in use of it.
type HeldBlock struct {
	Block
	// Unconfirmed: the host has been booted since somebody said that it has the block.
	// Nothing is assigned of it, and nothing leads here, until that is said again.
	Unconfirmed bool `json:"unconfirmed,omitempty"`
	Workloads   int  `json:"workloads"`
	// Cooling is how many sets were given back that are kept out of use yet.
	Cooling int `json:"cooling"`
}

// Empty says that nobody has anything of the block, and nothing cools down.
func (b HeldBlock) Empty() bool { return b.Workloads == 0 && b.Cooling == 0 }

// ReturnedBlock is a loan that ended.
type ReturnedBlock struct {
	IPv4  netip.Prefix `json:"ipv4"`
	Lease uint64       `json:"lease"`
}

// BlockPool is what a pool of blocks has, and what it would have, in workloads that
// take what one gets that does not say how much.
type BlockPool struct {
	Pool       string `json:"pool"`
	Headroom   int    `json:"headroom"`    // for how many there is room
	PerAddress int    `json:"per_address"` // for how many an empty address has room
	Low        int    `json:"low"`         // below it more is wanted
	High       int    `json:"high"`        // beyond it an empty block is given back
	Wanted     int    `json:"wanted"`      // room for how many is wanted besides
}

// Blocks gives what this host has of a fleet, and what it would have.
func (c *Client) Blocks(ctx context.Context) (Blocks, error) {
	return answer[Blocks](ctx, c, http.MethodGet, "/v1/blocks", nil)
}

// PutBlocks tells all blocks that this host has. When it returns, that is durable and
// in force. ErrStale, ErrInUse and ErrShrinks, among others: then nothing has changed.
func (c *Client) PutBlocks(ctx context.Context, s BlockSet) (Blocks, error) {
	if s.Blocks == nil {
		s.Blocks = []Block{}
	}
	return answer[Blocks](ctx, c, http.MethodPut, "/v1/blocks", s)
}
