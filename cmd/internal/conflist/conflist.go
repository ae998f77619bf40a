// Package conflist chains natless-cni into a container engine's network
// configuration, and takes it out again: it changes one JSON file as little as
// it can, whole or not at all. What the plugin then does may not enter here.
package conflist

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Plugin is the type of ours (CNI spec 1.1, section 1).
const Plugin = "natless-cni"

// podAnnotations is the capability by which containerd and CRI-O tell a plugin the pod's
// annotations.
const podAnnotations = "io.kubernetes.cri.pod-annotations"

// ErrNone says that there is no list to chain into: the plugin that gives
// containers IPv6 has not been installed, or not yet.
var ErrNone = errors.New("there is no .conflist: install first the network plugin that gives containers IPv6")

// ErrChanged says that another program has written a list at the same time, and that it
// is as that program left it.
var ErrChanged = errors.New("was changed by another program meanwhile: try again")

// list is a network configuration list; what we do not know stays as it is.
type list struct {
	path    string
	text    []byte // as it was read
	mode    fs.FileMode
	keys    map[string]json.RawMessage
	plugins []json.RawMessage
}

// Find names the list that container engines take: the first by name.
func Find(dir string) (string, error) {
	entries, err := os.ReadDir(dir) // sorted
	if err != nil {
		return "", fmt.Errorf("network configurations: %w", err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".conflist") && e.Type().IsRegular() {
			return filepath.Join(dir, e.Name()), nil
		}
	}
	return "", fmt.Errorf("%s: %w", dir, ErrNone)
}

// Before names a configuration that stands before the list, by name: one plugin alone, for
// which engines take the endings .conf and .json. Where there is one, containerd and CRI-O
// take that, and not the list. "": there is none.
func Before(path string) string {
	entries, err := os.ReadDir(filepath.Dir(path)) // sorted
	if err != nil {
		return ""
	}
	for _, e := range entries {
		switch filepath.Ext(e.Name()) {
		case ".conf", ".json":
			return filepath.Join(filepath.Dir(path), e.Name())
		case ".conflist":
			return ""
		}
	}
	return ""
}

// Add chains the plugin, with these keys besides its type, behind all others
// of the list; where it is already, its keys are replaced. It reports whether that
// changed anything.
func Add(path string, keys map[string]any) (changed bool, err error) {
	capabilities := map[string]bool{"natless": true}
	if keys["annotations"] != nil {
		capabilities[podAnnotations] = true
	}
	own := map[string]any{"type": Plugin, "capabilities": capabilities}
	for k, v := range keys {
		own[k] = v
	}
	text, err := json.Marshal(own)
	if err != nil {
		return false, err
	}
	l, err := read(path)
	if err != nil {
		return false, err
	}
	if len(l.plugins) == 0 || len(l.plugins) == 1 && isOurs(l.plugins[0]) {
		return false, fmt.Errorf("%s: has no plugin that natless-cni could stand behind", path)
	}
	i := slices.IndexFunc(l.plugins, isOurs)
	if i >= 0 && equal(l.plugins[i], text) {
		return false, nil
	}
	if i >= 0 {
		l.plugins[i] = text
	} else {
		l.plugins = append(l.plugins, text)
	}
	return true, l.write()
}

// Remove takes the plugin out. It reports whether it was there.
func Remove(path string) (changed bool, err error) {
	l, err := read(path)
	if err != nil || !slices.ContainsFunc(l.plugins, isOurs) {
		return false, err
	}
	l.plugins = slices.DeleteFunc(l.plugins, isOurs)
	return true, l.write()
}

func isOurs(plugin json.RawMessage) bool {
	var p struct{ Type string }
	return json.Unmarshal(plugin, &p) == nil && p.Type == Plugin
}

// equal compares JSON texts but for white space. Keys are in one order, since
// it was Marshal that wrote both.
func equal(a, b json.RawMessage) bool {
	var x, y bytes.Buffer
	return json.Compact(&x, a) == nil && json.Compact(&y, b) == nil && bytes.Equal(x.Bytes(), y.Bytes())
}

func read(path string) (*list, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	text, err := disk.ReadFile(path)
	if err != nil {
		return nil, err
	}
	l := &list{path: path, text: text, mode: info.Mode().Perm()}
	if err := json.Unmarshal(text, &l.keys); err != nil {
		return nil, fmt.Errorf("%s: is not a JSON object: %w", path, err)
	}
	if err := json.Unmarshal(l.keys["plugins"], &l.plugins); err != nil {
		return nil, fmt.Errorf("%s: plugins: is not a list: %w", path, err)
	}
	return l, nil
}

// write replaces the file, whole or not at all: engines watch it. Where somebody else
// has written it since it was read, theirs stays.
func (l *list) write() error {
	plugins, err := json.Marshal(l.plugins)
	if err != nil {
		return err
	}
	l.keys["plugins"] = plugins
	text, err := json.MarshalIndent(l.keys, "", "  ")
	if err != nil {
		return err
	}
	return replace(l.path, bytes.NewReader(append(text, '\n')), l.mode, func() error {
		now, err := disk.ReadFile(l.path)
		if err == nil && !bytes.Equal(now, l.text) {
			err = fmt.Errorf("%s: %w", l.path, ErrChanged)
		}
		return err
	})
}
