package fleet_test

import (
	"testing"

	"github.com/natless/natless/cmd/natless-fleet/conformance"
	"github.com/natless/natless/cmd/natless-fleet/fleet"
)

func TestMemory(t *testing.T) {
	t.Parallel()
	conformance.Run(t, func(*testing.T) (a, b fleet.Store) {
		m := fleet.NewMemory()
		return m, m
	})
}
