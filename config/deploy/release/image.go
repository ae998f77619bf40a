package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

var (
	architectures = []string{"amd64", "arm64"}
	programs      = []string{"natless", "natless-cni", "natless-fleet", "natlessd"}
)

// nobody is who the programs run as where nobody says otherwise. The manifests do:
// natlessd needs root, whose network and sysctls it changes.
const nobody = "65532:65532"

// image writes an OCI image layout of both architectures. There is no base: three
// static programs need none, and what is not there nobody can run.
func image(m *made) error {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range architectures {
		img, err := imageOf(m, arch)
		if err != nil {
			return fmt.Errorf("image of %s: %w", arch, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	// One entry, so that nobody has to choose, with the name that engines give it.
	name := m.Image + ":" + m.Tag()
	outer := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{Add: index,
		Descriptor: v1.Descriptor{Annotations: map[string]string{
			"org.opencontainers.image.ref.name": name, "io.containerd.image.name": name}}})
	_, err := layout.Write(filepath.Join(m.Out, "oci"), outer)
	return err
}

func imageOf(m *made, arch string) (v1.Image, error) {
	files, err := layer(filepath.Join(m.Bin, "linux_"+arch), m.Time)
	if err != nil {
		return nil, err
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files)), nil },
		tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err = mutate.Append(img, mutate.Addendum{Layer: l, History: v1.History{Created: v1.Time{Time: m.Time}, CreatedBy: "make release"}})
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", arch, v1.Time{Time: m.Time}
	config.Config = v1.Config{Entrypoint: []string{"/usr/bin/natlessd"}, User: nobody, WorkingDir: "/",
		Env: []string{"PATH=/usr/bin"}, Labels: map[string]string{
			"org.opencontainers.image.title":    "natless",
			"org.opencontainers.image.version":  m.Version,
			"org.opencontainers.image.licenses": "Apache-2.0 AND (GPL-2.0-only OR BSD-2-Clause)",
			"org.opencontainers.image.source":   "https://github.com/natless/natless",
		}}
	return mutate.ConfigFile(img, config)
}

// layer is the programs as a tar archive.
func layer(dir string, at time.Time) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, d := range []tar.Header{{Name: "tmp/", Mode: 0o1777}, {Name: "usr/", Mode: 0o755}, {Name: "usr/bin/", Mode: 0o755}} { // natless demo wants /tmp
		d.Typeflag, d.ModTime = tar.TypeDir, at
		if err := w.WriteHeader(&d); err != nil {
			return nil, err
		}
	}
	for _, name := range programs {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "usr/bin/" + name, Mode: 0o755, Size: int64(len(data)), ModTime: at}); err != nil {
			return nil, err
		}
		if _, err := w.Write(data); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), w.Close()
}
