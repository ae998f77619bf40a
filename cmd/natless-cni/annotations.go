//go:build linux

package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/natless/natless/cmd/internal/conflist"
	"github.com/natless/natless/translator/ports"
)

// maxPublished is how many extra ports natlessd takes (config/registry).
const maxPublished = 64

// annotations are those that a pod may have, by what stands behind
// conflist.AnnotationDomain in their keys. Each is read into the pod's wishes.
var annotations = map[string]func(w *wishes, value string) error{
	"pool":    func(w *wishes, value string) error { w.Pool = value; return nil },
	"ports":   readPorts,
	"publish": readPublish,
	"labels":  readLabels,
	"ipv4":    func(w *wishes, value string) error { w.IPv4 = value; return nil },
}

// annotated gives the wishes of a pod's annotations, of which heeded names those that
// this network grants: who may create pods writes them, and need not be who runs the
// network. One that is unknown, not heeded or nonsense is an error that names it: the
// pod waits, and its events say why, instead of running with half of what it asked for.
func annotated(all map[string]string, heeded []string) (w wishes, err error) {
	for _, key := range slices.Sorted(maps.Keys(all)) {
		name, ours := strings.CutPrefix(key, conflist.AnnotationDomain)
		if !ours {
			continue
		}
		if err := w.read(name, strings.TrimSpace(all[key]), heeded); err != nil {
			var e *types.Error
			if errors.As(err, &e) {
				return w, types.NewError(e.Code, fmt.Sprintf("the pod's annotation %s: %s", key, e.Msg), e.Details)
			}
			return w, types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("the pod's annotation %s: %v", key, err),
				"mend the annotation, and create the pod again")
		}
	}
	return w, nil
}

// read reads one annotation.
func (w *wishes) read(name, value string, heeded []string) error {
	read, known := annotations[name]
	switch {
	case !known:
		return types.NewError(types.ErrUnsupportedField, "there is no such annotation", "known are "+strings.Join(conflist.Annotations, ", "))
	case !slices.Contains(heeded, name):
		return types.NewError(types.ErrUnsupportedField, "this network does not heed it",
			"natless cni install --annotations names those that are heeded")
	case value == "":
		return errors.New("it is empty")
	}
	if err := read(w, value); err != nil {
		return err
	}
	return w.validate()
}

func readPorts(w *wishes, value string) error {
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 {
		return fmt.Errorf("%q is not a number of ports, such as 1024", value)
	}
	w.Ports = n
	return nil
}

// readLabels reads what policies select by: app=web,tier=front.
func readLabels(w *wishes, value string) error {
	w.Labels = map[string]string{}
	for one := range strings.SplitSeq(value, ",") {
		k, v, ok := strings.Cut(strings.TrimSpace(one), "=")
		if !ok || k == "" {
			return fmt.Errorf("%q is not a label, such as app=web", one)
		}
		w.Labels[k] = v
	}
	return nil
}

// readPublish reads ports and runs of ports: 443,8000-8003. Commas may have spaces.
func readPublish(w *wishes, value string) error {
	set, err := ports.Parse(strings.ReplaceAll(value, " ", ""))
	if err != nil {
		return fmt.Errorf("%w: ports are wanted, such as 443,8000-8003", err)
	}
	if set.Contains(0) || set.Size() > maxPublished {
		return fmt.Errorf("%q: 1 to %d ports from 1 to 65535 are wanted", value, maxPublished)
	}
	w.ExtraPorts = slices.Collect(set.Ports())
	return nil
}
