package main

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// kustomized are the folders of kubernetes/ that go into the release, for overlays.
var kustomized = []string{"base", "components", "fleet", "overlays", "uninstall"}

// manifests writes install.yaml, what a fleet needs besides, and uninstall.yaml, which name
// the release's image, and what they are made of.
func manifests(m *made) error {
	for file, folder := range map[string]string{"install.yaml": "base", "install-fleet.yaml": "fleet", "uninstall.yaml": "uninstall"} {
		text, err := render(m, folder)
		if err != nil {
			return err
		}
		text = append([]byte("# natless "+m.Version+": made of config/deploy/kubernetes/"+folder+".\n"), text...)
		if err := write(filepath.Join(m.Out, file), text); err != nil {
			return err
		}
	}
	dir := filepath.Join(m.Out, "kustomize")
	for _, folder := range kustomized {
		if err := os.CopyFS(filepath.Join(dir, folder), os.DirFS(filepath.Join(m.Source, "kubernetes", folder))); err != nil {
			return err
		}
	}
	return write(filepath.Join(dir, "kustomization.yaml"), pinned(m, "base"))
}

// pinned is a kustomization of a folder beside it, with the release's image.
func pinned(m *made, folder string) []byte {
	return fmt.Appendf(nil, `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [%s]
images: [{name: natless, newName: %s, newTag: %q}]
`, folder, m.Image, m.Tag())
}

// render is what kubectl kustomize would say of a folder with the release's image.
func render(m *made, folder string) ([]byte, error) {
	memory := filesys.MakeFsInMemory()
	source := os.DirFS(filepath.Join(m.Source, "kubernetes"))
	err := fs.WalkDir(source, folder, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(source, name)
		if err != nil {
			return err
		}
		return memory.WriteFile(path.Join("/", name), data)
	})
	if err != nil {
		return nil, err
	}
	if err := memory.WriteFile("/kustomization.yaml", pinned(m, folder)); err != nil {
		return nil, err
	}
	objects, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(memory, "/")
	if err != nil {
		return nil, fmt.Errorf("kustomize %s: %w", folder, err)
	}
	return objects.AsYaml()
}

func write(path string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o644)
}
