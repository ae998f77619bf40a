package kube

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/natless/natless/cmd/natless-fleet/fleet"
)

// Objects that are of no namespace have their events in this one.
const events = "/api/v1/namespaces/default/events"

const component = "natless-fleet"

// event is core/v1 Event, as far as it is used.
type event struct {
	APIVersion     string        `json:"apiVersion"`
	Kind           string        `json:"kind"`
	Metadata       eventMetadata `json:"metadata"`
	InvolvedObject reference     `json:"involvedObject"`
	Reason         string        `json:"reason"`
	Message        string        `json:"message"`
	Type           string        `json:"type"`
	Source         source        `json:"source"`
	FirstTimestamp time.Time     `json:"firstTimestamp"`
	LastTimestamp  time.Time     `json:"lastTimestamp"`
	Count          int           `json:"count"`
	Reporting      string        `json:"reportingComponent"`
}

type eventMetadata struct {
	GenerateName string `json:"generateName,omitempty"`
	Namespace    string `json:"namespace"`
}

type source struct {
	Component string `json:"component"`
}

type reference struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Name       string `json:"name"`
	UID        string `json:"uid,omitempty"`
}

// Record is fleet.Recorder's.
func (s *Store) Record(ctx context.Context, n fleet.Note) error {
	r := s.paths[n.Kind]
	var about item // kubectl describe looks for the uid; without it there is an event all the same
	_ = s.call(ctx, http.MethodGet, s.path(n.Kind, n.Name), "", nil, &about)
	e := event{APIVersion: "v1", Kind: "Event", Metadata: eventMetadata{n.Name + ".", "default"}, Reason: n.Reason, Message: n.Message, Type: "Normal",
		InvolvedObject: reference{r.apiVersion, r.kind, n.Name, about.Metadata.UID}, Source: source{component}, Reporting: component,
		FirstTimestamp: n.Time.UTC().Truncate(time.Second), LastTimestamp: n.Time.UTC().Truncate(time.Second), Count: 1}
	if n.Warning {
		e.Type = "Warning"
	}
	if len(e.Message) > 1024 {
		e.Message = e.Message[:1024]
	}
	return s.call(ctx, http.MethodPost, events, asJSON, e, new(any))
}

// Notes is fleet.Recorder's.
func (s *Store) Notes(ctx context.Context) (all []fleet.Note, err error) {
	var got struct {
		Items []event `json:"items"`
	}
	if err := s.call(ctx, http.MethodGet, events+"?fieldSelector="+url.QueryEscape("source="+component), "", nil, &got); err != nil {
		return nil, err
	}
	for _, e := range got.Items {
		for k, r := range s.paths {
			if r.kind == e.InvolvedObject.Kind {
				all = append(all, fleet.Note{Kind: k, Name: e.InvolvedObject.Name, Warning: e.Type == "Warning", Reason: e.Reason, Message: e.Message, Time: e.LastTimestamp})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b fleet.Note) int { return a.Time.Compare(b.Time) })
	return all, nil
}
