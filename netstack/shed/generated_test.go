//go:build linux

package shed

import (
	"os"
	"testing"

	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/regenerate"
)

func TestMain(m *testing.M) {
	status := m.Run()
	daemon.Remove()
	os.Exit(status)
}

// TestGenerated generates the Go code and the objects again.
func TestGenerated(t *testing.T) { regenerate.Compare(t, "filter_linux.go") }
