//go:build !linux

package registry

import bolt "go.etcd.io/bbolt"

func unmapped(*bolt.DB) {}
