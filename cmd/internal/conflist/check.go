package conflist

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Keys are the plugin's own in a network configuration. Others are those of CNI, of
// which there may be new ones, so that only what is nearly one of these is misspelt.
var Keys = []string{"socket", "pool", "ports", "address", "extraPorts", "labels", "ipv4", "tcpTwReuse", "annotations"}

// Annotations are those of a pod that the plugin may heed, each behind AnnotationDomain.
var Annotations = []string{"ipv4", "labels", "pool", "ports", "publish"}

// AnnotationDomain begins the keys of a pod's annotations that are for natless.
const AnnotationDomain = "natless.io/"

var cniKeys = []string{"cniVersion", "name", "type", "capabilities", "ipam", "dns", "args", "runtimeConfig", "prevResult", "ipMasq",
	"ipMasqBackend", "disableCheck", "disableGC", "loadOnlyInlinedPlugins", "plugins"}

// Misspelt finds a key that somebody meant to be one of the plugin's; "" where there is
// none, and in what is no JSON.
func Misspelt(plugin []byte) (key, meant string) {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(plugin, &keys); err != nil {
		return "", ""
	}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if slices.Contains(Keys, key) || slices.Contains(cniKeys, key) {
			continue
		}
		for _, own := range Keys {
			if apart(strings.ToLower(key), strings.ToLower(own)) <= (len(own)+1)/3 {
				return key, own
			}
		}
	}
	return "", ""
}

// apart is how many letters must be put in, taken out or replaced to make a word of
// another (Levenshtein).
func apart(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range a {
		before := row[0]
		row[0] = i + 1
		for j := range b {
			cost := before
			if a[i] != b[j] {
				cost++
			}
			before = row[j+1]
			row[j+1] = min(cost, before+1, row[j]+1)
		}
	}
	return row[len(b)]
}

// Chained is a list that has the plugin.
type Chained struct {
	Path   string
	Plugin json.RawMessage // what the plugin is told
	Socket string          // likewise; empty: the default
	Pool   string          // empty: none
}

// In finds the lists of a directory that have the plugin. What is no list is nobody's
// concern here; a directory that is not there has none.
func In(dir string) (all []Chained) {
	paths, _ := filepath.Glob(filepath.Join(dir, "*.conflist"))
	for _, path := range paths {
		if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
			continue
		}
		l, err := read(path)
		if err != nil {
			continue
		}
		for _, p := range l.plugins {
			c := Chained{Path: path, Plugin: p}
			if isOurs(p) {
				var told struct{ Socket, Pool string }
				if json.Unmarshal(p, &told) == nil {
					c.Socket, c.Pool = told.Socket, told.Pool
				}
				all = append(all, c)
			}
		}
	}
	return all
}
