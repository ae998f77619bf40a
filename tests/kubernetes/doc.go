// Package kubernetes tests the manifests of config/deploy/kubernetes: it renders
// them as kubectl does, holds them against the API server's own types, and runs
// their commands, under their confinement, in real containers. It is a module of
// its own, so that what Kubernetes brings along is not in the project's go.mod.
package kubernetes
