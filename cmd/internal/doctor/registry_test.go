package doctor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/natless/natless/config/api"
)

// A registry that keeps natlessd from starting is found, with the way out.
func TestRefusedRegistry(t *testing.T) {
	p := patient(t, healthy(), nil, "")
	p.Client = api.NewClient(filepath.Join(t.TempDir(), "none"))
	p.Config.Registry.Path = filepath.Join(t.TempDir(), "r.db")
	found := func() (all []Finding) {
		for _, f := range Examine(t.Context(), p, nil) {
			if f.Check == "registry" {
				all = append(all, f)
			}
		}
		return all
	}
	if got := found(); got != nil {
		t.Errorf("where there never was one: %+v", got)
	}
	os.WriteFile(p.Config.Registry.Path+".exists", nil, 0o600)
	if got := found(); len(got) != 1 || got[0].State != Fail || !strings.Contains(got[0].Detail, "it is gone") || !strings.Contains(got[0].Remedy, "natless registry restore") {
		t.Errorf("gone: %+v", got)
	}
	os.WriteFile(p.Config.Registry.Path, make([]byte, 1<<15), 0o600)
	if got := found(); len(got) != 1 || !strings.Contains(got[0].Detail, "no beginning of a registry") {
		t.Errorf("zeroed: %+v", got)
	}
}
