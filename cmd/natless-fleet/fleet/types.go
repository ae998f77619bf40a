// Package fleet lends blocks of IPv4 addresses to hosts: what a pool, a block and a host
// are, the controller that lends, and the agent of a host that borrows. It knows a store
// by a small interface, and natlessd by the two questions that it asks: no API server, no
// etcd, no socket and no clock of its own may enter here, so that a simulation can drive
// all of it.
package fleet

// Finalizer keeps what was deleted until nothing hangs on it any more.
const Finalizer = "natless.io/fleet"

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
		// +optional
		// +listType=map
		// +listMapKey=type
		Conditions []Condition `json:"conditions,omitempty"`
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
		// IPv6 is the host's addresses for the block, to which relays lead it; absent: it is
		// routed to the host itself.
		// +kubebuilder:validation:MaxLength=43
		// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a block keeps its host's addresses"
		// +optional
		IPv6 string `json:"ipv6,omitempty"`
		// Rule is the number by which relays know the loan: higher than that of any rule of
		// these addresses before. It is Lease's, but where a loan was found again.
		// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="another rule is another object"
		// +optional
		Rule uint64 `json:"rule,omitempty"`
		// State is Reserved until it is certain that nobody else has any of the addresses;
		// Offered until relays that live have it; Lent; Ended until no relay has it.
		// +kubebuilder:validation:Enum=Reserved;Offered;Lent;Ended
		State BlockState `json:"state"`
	}

	// BlockStatus says for whom a block waits; what becomes of it stands in its host.
	BlockStatus struct {
		// +optional
		// +listType=map
		// +listMapKey=type
		Conditions []Condition `json:"conditions,omitempty"`
	}

	// BlockState is Reserved, Offered, Lent or Ended.
	BlockState string
)

// The states of a block.
const (
	Reserved BlockState = "Reserved"
	Offered  BlockState = "Offered"
	Lent     BlockState = "Lent"
	Ended    BlockState = "Ended"
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
		// Fabric is a prefix of 96 bits that leads to the host, of a fabric without IPv4: its
		// blocks have the addresses there that end with theirs, and relays lead them to it.
		// What is lent already keeps the addresses it has.
		// +kubebuilder:validation:MaxLength=43
		// +kubebuilder:validation:Pattern=`^[0-9a-fA-F:]+/96$`
		// +optional
		Fabric string `json:"fabric,omitempty"`
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
		// +optional
		// +listType=map
		// +listMapKey=type
		Conditions []Condition `json:"conditions,omitempty"`
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

// Relay is a relay: NatlessRelay.
type (
	// RelaySpec has what an operator says of a relay.
	RelaySpec struct {
		// Fenced is an operator's word that the relay is off, or cut from the network for
		// good: nobody waits for it. One that is fenced and lives is told nothing any more,
		// and drains.
		// +optional
		Fenced bool `json:"fenced,omitempty"`
		// Follow lets through what the relay does not follow by itself.
		// +optional
		Follow *Follow `json:"follow,omitempty"`
	}

	// Follow is an operator's word that it is right that blocks are missing, or that the view
	// is older. It is about one refusal.
	Follow struct {
		// Epoch is that of the refusal.
		Epoch uint64 `json:"epoch"`
		// Lacks is how many rules may be missing.
		Lacks int `json:"lacks"`
	}

	// RelayStatus is written by the relay's agent only.
	RelayStatus struct {
		// Machine is which machine calls itself by this name: another one is refused.
		// +optional
		Machine string `json:"machine,omitempty"`
		// Epoch is that of the view whose rules are in force, and on disk: a block of this
		// version or an older one is acknowledged.
		// +optional
		Epoch uint64 `json:"epoch,omitempty"`
		// Lease is the highest number of a rule that natlessd knows of.
		// +optional
		Lease uint64 `json:"lease,omitempty"`
		// Rules is how many are in force.
		// +optional
		Rules int `json:"rules,omitempty"`
		// IPv4 is what the relay serves: blocks of others it is not told.
		// +optional
		// +listType=set
		IPv4 []string `json:"ipv4,omitempty"`
		// State is what natlessd says of itself: serves, drains, unconfirmed, not-ready.
		// +optional
		State string `json:"state,omitempty"`
		// Refused is what the relay does not follow without a word of an operator.
		// +optional
		Refused *Refusal `json:"refused,omitempty"`
		// Error is why the relay does not go by what the fleet has.
		// +optional
		Error string `json:"error,omitempty"`
		// Renewed is when the agent said so last, by its clock. Nobody compares it with another
		// clock's.
		// +optional
		Renewed string `json:"renewed,omitempty"`
		// +optional
		// +listType=map
		// +listMapKey=type
		Conditions []Condition `json:"conditions,omitempty"`
	}

	// Refusal is what is not followed without a word of an operator.
	Refusal struct {
		// Epoch is that of the view in which it was first seen.
		Epoch uint64 `json:"epoch"`
		// Lacks is how many blocks are missing that were not seen to end, Of how many.
		Lacks int    `json:"lacks"`
		Of    int    `json:"of"`
		Why   string `json:"why"`
	}
)

// LeaderSpec is who leads, in the words of coordination.k8s.io/v1 Lease.
type LeaderSpec struct {
	HolderIdentity       string `json:"holderIdentity,omitempty"`
	LeaseDurationSeconds int    `json:"leaseDurationSeconds,omitempty"`
	LeaseTransitions     int    `json:"leaseTransitions,omitempty"`
	RenewTime            string `json:"renewTime,omitempty"`
}
