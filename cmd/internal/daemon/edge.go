//go:build linux

package daemon

import (
	"fmt"

	"github.com/natless/natless/cmd/internal/words"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/translator"
)

// edgeCheck says by which addresses relays reach this host, where it is the edge of a
// fabric without IPv4.
func edgeCheck(e translator.Edge) []api.Check {
	if !e.Enabled() {
		return nil
	}
	check := api.Check{Name: "edge", State: "ok"}
	switch n := len(e.Blocks); n {
	case 0:
		check.State, check.Detail = "warn", fmt.Sprintf("IPv4 is at %s, and this host has no address for any of it: nothing leaves", e.Prefix)
	default:
		first := e.Blocks[0]
		check.Detail = fmt.Sprintf("IPv4 is at %s; relays reach %s here, as %s at %s", e.Prefix, words.Count(n, "block"), first.IPv4, first.IPv6)
	}
	return []api.Check{check}
}
