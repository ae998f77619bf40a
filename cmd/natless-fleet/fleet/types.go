// Package fleet lends blocks of IPv4 addresses to hosts: what a pool, a block and a host
// are, the controller that lends, and the agent of a host that borrows. It knows a store
// by a small interface, and natlessd by the two questions that it asks: no API server, no
// etcd, no socket and no clock of its own may enter here, so that a simulation can drive
// all of it.
package fleet

// Pool is addresses that belong to all hosts: IPv4Pool.
type (
	// PoolSpec is what an operator writes.
	PoolSpec struct {
		// IPv4 are the prefixes that blocks are cut of. One that is taken out is drained:
		// nothing more is lent of it, and what is lent comes back as workloads go.
		// +kubebuilder:validation:MinItems=1
		// +kubebuilder:validation:MaxItems=64
		// +kubebuilder:validation:items:MaxLength=18
		// +kubebuilder:validation:items:Pattern=`^[0-9.]+/[0-9]+$`
		// +listType=set
		IPv4 []string `json:"ipv4"`
		// BlockLength is the prefix length of a block. It never changes: another length is
		// another pool.
		// +kubebuilder:validation:Minimum=16
		// +kubebuilder:validation:Maximum=32
		// +kubebuilder:default=32
		// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="another length of blocks is another pool"
		BlockLength int `json:"blockLength"`
		// MaxBlocksPerHost bounds what one host may have; 0: nothing does.
		// +kubebuilder:validation:Minimum=0
		// +optional
		MaxBlocksPerHost int `json:"maxBlocksPerHost,omitempty"`
	}

	// PoolStatus is what the controller found.
	PoolStatus struct {
		// Blocks is how many the pool has in all, Lent how many of them hosts have.
		Blocks int `json:"blocks"`
		Lent   int `json:"lent"`
		// Wanting is how many hosts want more than the pool has.
		Wanting int `json:"wanting"`
		// Reason is why nothing is lent of the pool; empty: it is.
		// +optional
		Reason string `json:"reason,omitempty"`
	}
)

// Block is addresses that are lent to a host: IPv4Block. While it is there, nobody else
// is lent any of them: it is the lock.
type (
	// BlockSpec is written by the controller only.
	BlockSpec struct {
		// +kubebuilder:validation:MaxLength=63
		Pool string `json:"pool"`
		// +kubebuilder:validation:MaxLength=18
		// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a block keeps its addresses"
		IPv4 string `json:"ipv4"`
		// +kubebuilder:validation:MaxLength=253
		// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a block keeps its host: it is given back, and lent anew"
		Host string `json:"host"`
		// Lease is the number of the loan: higher than that of any loan of these addresses
		// before.
		// +kubebuilder:validation:Minimum=1
		// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="another loan is another object"
		Lease uint64 `json:"lease"`
		// State is Reserved until it is certain that nobody else has any of the addresses.
		// +kubebuilder:validation:Enum=Reserved;Lent
		State BlockState `json:"state"`
	}

	// BlockStatus is empty: what becomes of a block stands in its host.
	BlockStatus struct{}

	// BlockState is Reserved or Lent.
	BlockState string
)

// The states of a block.
const (
	Reserved BlockState = "Reserved"
	Lent     BlockState = "Lent"
)

// Host is a host that borrows: NatlessHost.
type (
	// HostSpec has what an operator wants of a host, and what the controller lends it.
	HostSpec struct {
		// Drain has the host give back all that it has, as its workloads go.
		// +optional
		Drain bool `json:"drain,omitempty"`
		// Fenced is an operator's word that the host is off, or cut from the network for
		// good: all that it has is lent to others. When it comes back it begins with nothing.
		// +optional
		Fenced bool `json:"fenced,omitempty"`
		// Revoke are blocks that the host is to give up at once, whoever has something of
		// them.
		// +optional
		// +kubebuilder:validation:MaxItems=4096
		// +listType=set
		Revoke []string `json:"revoke,omitempty"`
		// Epoch is higher with each change of Blocks. The controller writes both.
		// +optional
		Epoch uint64 `json:"epoch,omitempty"`
		// +optional
		// +kubebuilder:validation:MaxItems=4096
		// +listType=map
		// +listMapKey=ipv4
		Blocks []HostBlock `json:"blocks,omitempty"`
	}

	// HostBlock is a block as its host is told of it. That one is missing means nothing: a
	// host gives up what it is told to.
	HostBlock struct {
		// +kubebuilder:validation:MaxLength=18
		IPv4 string `json:"ipv4"`
		// +kubebuilder:validation:MaxLength=63
		Pool  string `json:"pool"`
		Lease uint64 `json:"lease"`
		// State is Lent; Draining: give it back when nobody has anything of it; Revoked: give
		// it up at once.
		// +kubebuilder:validation:Enum=Lent;Draining;Revoked
		State HostBlockState `json:"state"`
	}

	// HostBlockState is Lent, Draining or Revoked.
	HostBlockState string

	// HostStatus is written by the host's agent only.
	HostStatus struct {
		// Machine is which machine calls itself by this name: another one is refused.
		// +optional
		Machine string `json:"machine,omitempty"`
		// Epoch is that of what natlessd goes by.
		// +optional
		Epoch uint64 `json:"epoch,omitempty"`
		// Held is what natlessd has, on disk and in force.
		// +optional
		// +listType=map
		// +listMapKey=ipv4
		Held []Held `json:"held,omitempty"`
		// Returned are loans of those that Blocks names that natlessd does not have, and
		// will never take again.
		// +optional
		// +listType=map
		// +listMapKey=ipv4
		Returned []Returned `json:"returned,omitempty"`
		// Pools is what the host's pools want.
		// +optional
		// +listType=map
		// +listMapKey=pool
		Pools []HostPool `json:"pools,omitempty"`
		// Error is why the host does not have what it is lent.
		// +optional
		Error string `json:"error,omitempty"`
	}

	// Held is a block that natlessd has.
	Held struct {
		IPv4  string `json:"ipv4"`
		Pool  string `json:"pool"`
		Lease uint64 `json:"lease"`
		// +optional
		Draining bool `json:"draining,omitempty"`
		// Used says that somebody has something of it, or something cools down.
		// +optional
		Used bool `json:"used,omitempty"`
	}

	// Returned is a loan that has ended.
	Returned struct {
		IPv4  string `json:"ipv4"`
		Lease uint64 `json:"lease"`
	}

	// HostPool is what a pool of a host wants, in workloads. Headroom is of when the status
	// was last written for another reason: API writes come with blocks, not with containers.
	HostPool struct {
		Pool       string `json:"pool"`
		PerAddress int    `json:"perAddress"`
		// +optional
		Wanted int `json:"wanted,omitempty"`
		// +optional
		Headroom int `json:"headroom,omitempty"`
	}
)

// The states of a block as its host is told.
const (
	HostLent     HostBlockState = "Lent"
	HostDraining HostBlockState = "Draining"
	HostRevoked  HostBlockState = "Revoked"
)

// LeaderSpec is who leads, in the words of coordination.k8s.io/v1 Lease.
type LeaderSpec struct {
	HolderIdentity       string `json:"holderIdentity,omitempty"`
	LeaseDurationSeconds int    `json:"leaseDurationSeconds,omitempty"`
	LeaseTransitions     int    `json:"leaseTransitions,omitempty"`
	RenewTime            string `json:"renewTime,omitempty"`
}
