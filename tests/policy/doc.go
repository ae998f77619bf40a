// Package policy holds policies against a second judge that knows nothing of ours: the
// same policies as an nftables rule set, by which the kernel forwards the same packets
// or does not.
package policy
