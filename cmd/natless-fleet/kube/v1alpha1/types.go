// Package v1alpha1 has the fleet's objects as the Kubernetes API knows them. What is in
// them is package fleet's; here is what an API server makes of it: names, columns, rules.
//
// +groupName=natless.io
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/natless/natless/cmd/natless-fleet/fleet"
)

//go:generate go tool -modfile=../../tools/go.mod controller-gen crd paths=. output:crd:dir=../../../../config/deploy/kubernetes/fleet/crds

// Group and Version of all of them.
const (
	Group   = "natless.io"
	Version = "v1alpha1"
)

// IPv4Pool is IPv4 addresses that belong to all hosts.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=natless
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Blocks",type=integer,JSONPath=`.status.blocks`
// +kubebuilder:printcolumn:name="Lent",type=integer,JSONPath=`.status.lent`
// +kubebuilder:printcolumn:name="Wanting",type=integer,JSONPath=`.status.wanting`
// +kubebuilder:printcolumn:name="IPv4",type=string,JSONPath=`.spec.ipv4`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.reason`,priority=1
type IPv4Pool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   fleet.PoolSpec   `json:"spec"`
	Status fleet.PoolStatus `json:"status,omitempty"`
}

// IPv4Block is addresses that are lent to a host. The controller writes it, and nobody else.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=natless
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="IPv4",type=string,JSONPath=`.spec.ipv4`
// +kubebuilder:printcolumn:name="Pool",type=string,JSONPath=`.spec.pool`
// +kubebuilder:printcolumn:name="Host",type=string,JSONPath=`.spec.host`
// +kubebuilder:printcolumn:name="Lease",type=integer,JSONPath=`.spec.lease`
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.spec.state`
// +kubebuilder:printcolumn:name="Waits",type=string,JSONPath=`.status.conditions[?(@.status=="False")].message`
// +kubebuilder:printcolumn:name="IPv6",type=string,JSONPath=`.spec.ipv6`,priority=1
// +kubebuilder:validation:XValidation:rule="has(self.spec.ipv6) == has(oldSelf.spec.ipv6) && has(self.spec.rule) == has(oldSelf.spec.rule)",message="a block keeps its host's addresses and its rule"
type IPv4Block struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec fleet.BlockSpec `json:"spec"`
	// +optional
	Status fleet.BlockStatus `json:"status,omitempty"`
}

// NatlessHost is a host that borrows blocks. An operator writes drain, fenced, revoke and fabric;
// the controller blocks and epoch; the host's agent the status.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=natless
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Drained",type=string,JSONPath=`.status.conditions[?(@.type=="Drained")].status`
// +kubebuilder:printcolumn:name="Epoch",type=integer,JSONPath=`.spec.epoch`
// +kubebuilder:printcolumn:name="In force",type=integer,JSONPath=`.status.epoch`
// +kubebuilder:printcolumn:name="Drain",type=boolean,JSONPath=`.spec.drain`
// +kubebuilder:printcolumn:name="Fenced",type=boolean,JSONPath=`.spec.fenced`
// +kubebuilder:printcolumn:name="Blocks",type=string,JSONPath=`.spec.blocks[*].ipv4`
// +kubebuilder:printcolumn:name="Fabric",type=string,JSONPath=`.spec.fabric`,priority=1
// +kubebuilder:printcolumn:name="Error",type=string,JSONPath=`.status.error`,priority=1
type NatlessHost struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec   fleet.HostSpec   `json:"spec,omitempty"`
	Status fleet.HostStatus `json:"status,omitempty"`
}

// NatlessRelay is a relay, which leads blocks to hosts that have no IPv4. An operator writes
// the spec, the relay's agent the status.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=natless
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.status.state`
// +kubebuilder:printcolumn:name="Epoch",type=integer,JSONPath=`.status.epoch`
// +kubebuilder:printcolumn:name="Rules",type=integer,JSONPath=`.status.rules`
// +kubebuilder:printcolumn:name="Following",type=string,JSONPath=`.status.conditions[?(@.type=="Following")].status`
// +kubebuilder:printcolumn:name="Fenced",type=boolean,JSONPath=`.spec.fenced`
// +kubebuilder:printcolumn:name="Lacks",type=integer,JSONPath=`.status.refused.lacks`
// +kubebuilder:printcolumn:name="Error",type=string,JSONPath=`.status.error`,priority=1
type NatlessRelay struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec   fleet.RelaySpec   `json:"spec,omitempty"`
	Status fleet.RelayStatus `json:"status,omitempty"`
}
