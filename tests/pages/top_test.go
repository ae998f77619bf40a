package pages

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// TestTop: nothing stands at the top of the tree but what belongs there. What begins
// with a dot may, and what go and make leave there, which git ignores.
func TestTop(t *testing.T) {
	belong := []string{"LICENSE", "Makefile", "README.md", "cmd", "config", "go.mod", "go.sum", "netstack", "tests", "translator", "vagrant",
		"bin", "dist", "natless", "natlessd", "natless-cni"}
	list, err := os.ReadDir("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if n := e.Name(); !strings.HasPrefix(n, ".") && !strings.HasSuffix(n, ".test") && !strings.HasSuffix(n, ".prof") && !slices.Contains(belong, n) {
			t.Errorf("%s does not belong at the top of the tree", n)
		}
	}
}
