package doctor

import (
	"errors"

	"github.com/natless/natless/config/registry"
)

// registry looks at the file of a daemon that is not there: it may be why.
func (v *visit) registry() {
	if v.Config == nil {
		return
	}
	_, err := registry.Check(v.Config.Registry.Path)
	if refused := (*registry.RefusedError)(nil); errors.As(err, &refused) {
		v.fail("registry", refused.Remedy, "%s: %v", refused.Path, refused.Reason)
	}
}
