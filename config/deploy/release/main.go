// Command release makes of the programs and manifests of this tree what a release has
// and no tool makes whole: the image, the manifests and the chart. It is a module of its
// own, so that nothing that builds natless needs its libraries. config/deploy/release/build
// calls it, at the top of the tree. What is in a package may not enter (../packages).
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"time"
)

// made is one release.
type made struct {
	Version string    // semantic
	Image   string    // its repository
	Time    time.Time // of the commit: the same commit gives the same bytes
	Bin     string    // folder with linux_amd64 and linux_arm64
	Source  string    // config/deploy
	Out     string    // where it is put, unpacked
}

// Tag is the image's: it may have no +.
func (m *made) Tag() string { return strings.ReplaceAll(m.Version, "+", "_") }

func main() {
	m := &made{Source: "config/deploy"}
	epoch := flag.Int64("time", 0, "of the commit, in `seconds` since 1970")
	flag.StringVar(&m.Version, "version", "", "semantic `version`")
	flag.StringVar(&m.Image, "image", "", "`repository` that the image is to be in")
	flag.StringVar(&m.Bin, "bin", "", "`folder` that holds linux_amd64 and linux_arm64")
	flag.StringVar(&m.Out, "out", "", "`folder` to write to")
	only := flag.String("only", "", "`part` to make: image, manifests or chart; not all of them")
	flag.Parse()
	m.Time = time.Unix(*epoch, 0).UTC()
	for _, part := range []struct {
		name string
		make func(*made) error
	}{{"image", image}, {"manifests", manifests}, {"chart", chart}} {
		if *only != "" && *only != part.name {
			continue
		}
		if err := part.make(m); err != nil {
			fmt.Fprintln(os.Stderr, "release:", err)
			os.Exit(1)
		}
	}
}
