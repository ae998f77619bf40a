package doctor

import (
	"cmp"
	"path/filepath"
	"slices"
	"strings"

	"github.com/natless/natless/cmd/internal/conflist"
	"github.com/natless/natless/cmd/internal/words"
	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
)

// plugin holds what natless-cni is told to what natlessd is: a slip there is found when
// the next container starts, or never.
func (v *visit) plugin() {
	const check = "plugin"
	if v.Config == nil || v.NetworkConfigs == "" {
		return
	}
	all := conflist.In(v.NetworkConfigs)
	for _, c := range all {
		if key, meant := conflist.Misspelt(c.Plugin); key != "" {
			v.fail(check, "write "+meant+" instead, or take it out", "%s: natless-cni has no key %q: is it %q?", c.Path, key, meant)
		}
		if socket := cmp.Or(c.Socket, api.DefaultSocket); filepath.Clean(socket) != filepath.Clean(v.Config.API.Socket) {
			v.fail(check, "say \"socket\": \""+v.Config.API.Socket+"\" there", "%s: natless-cni asks at %s, and natlessd answers at %s (api.socket)",
				c.Path, socket, v.Config.API.Socket)
		}
		if c.Pool != "" && !slices.ContainsFunc(v.Config.Pools, func(p config.Pool) bool { return p.Name == c.Pool }) {
			var names []string
			for _, p := range v.Config.Pools {
				names = append(names, p.Name)
			}
			v.fail(check, "name one of pools ("+strings.Join(names, ", ")+"), or none", "%s: natless-cni asks for pool %q, which there is not",
				c.Path, c.Pool)
		}
	}
	if v.sound(check) && all != nil {
		v.ok(check, "natless-cni is chained in %s, and asks natlessd for what there is", words.Count(len(all), "network"))
	}
}
