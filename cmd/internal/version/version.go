// Package version says which version the programs are of: the one that version.txt
// names, which everything else takes from here (config/deploy/release/version). What
// a version can do may not enter.
package version

import (
	_ "embed"
	"runtime/debug"
	"strings"
)

// next is the version that this tree is, or is on its way to.
//
//go:embed version.txt
var next string

// linked is set by make build and make release, with -ldflags -X.
var linked string

// String is a semantic version (semver.org): what the linker was told, else what the
// Go tool knows of the module (go install …@v1.2.3), else that of the tree, before the
// release of that name.
func String() string {
	if linked != "" {
		return linked
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		return module(info.Main.Version)
	}
	return module("")
}

// module is String of what the Go tool knows. A version that it has made up of a
// commit's time (v0.0.0-…) would be before every release.
func module(known string) string {
	if known == "" || known == "(devel)" || strings.HasPrefix(known, "v0.0.0-") {
		return Next() + "-development"
	}
	return strings.TrimPrefix(known, "v")
}

// Next is what version.txt says.
func Next() string { return strings.TrimSpace(next) }
