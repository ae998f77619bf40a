// Package cluster tests natless in a real Kubernetes cluster: etcd, API server,
// controllers, scheduler, and two nodes with kubelet and containerd, in network
// namespaces; README.md says how. What takes no cluster runs with the other tests; the
// rest with make test-cluster.
package cluster
