package fleet

import (
	"slices"
	"time"
)

// Condition is one thing that an object's status says, as metav1.Condition has it.
type Condition struct {
	// +kubebuilder:validation:MaxLength=64
	Type string `json:"type"`
	// +kubebuilder:validation:Enum=True;False;Unknown
	Status string `json:"status"`
	// Reason is a word for programs, Message a sentence for people.
	// +kubebuilder:validation:MaxLength=64
	Reason string `json:"reason"`
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Message string `json:"message,omitempty"`
	// LastTransitionTime is when Status became what it is.
	LastTransitionTime string `json:"lastTransitionTime"`
}

// The types of conditions.
const (
	Lending      = "Lending"      // of a pool: blocks are lent of it
	Satisfied    = "Satisfied"    // of a pool: nobody wants more than there is
	Ready        = "Ready"        // of a host: it has what it is lent; of a relay: it is to be sent packets
	Drained      = "Drained"      // of a host: it has given back all that it had
	Following    = "Following"    // of a relay: it goes by the view that the fleet has
	Acknowledged = "Acknowledged" // of a block: all relays go by it as it is; absent: nobody waited for long
)

// Why a host is not ready.
const (
	NotHeld     = "NotHeld"     // natlessd does not hold what the host is lent
	OtherFabric = "OtherFabric" // natlessd expects at other addresses what relays lead to it
)

// with is the conditions with one set; when it was set before stays, unless its status changes.
func with(all []Condition, now time.Time, kind string, is bool, reason, message string) []Condition {
	if len(message) > 1024 {
		message = message[:1024]
	}
	next := Condition{Type: kind, Status: "False", Reason: reason, Message: message, LastTransitionTime: now.UTC().Format(time.RFC3339)}
	if is {
		next.Status = "True"
	}
	all = slices.Clone(all)
	for i, c := range all {
		if c.Type != kind {
			continue
		}
		if c.Status == next.Status {
			next.LastTransitionTime = c.LastTransitionTime
		}
		all[i] = next
		return all
	}
	return append(all, next)
}

// condition is one of them, or nil.
func condition(all []Condition, kind string) *Condition {
	if i := slices.IndexFunc(all, func(c Condition) bool { return c.Type == kind }); i >= 0 {
		return &all[i]
	}
	return nil
}
