package server

import (
	"runtime/debug"

	etcdversion "go.etcd.io/etcd/api/v3/version"
)

// Version says which versions of Kubernetes and etcd this is.
func Version() string {
	kubernetes := "unknown"
	if b, ok := debug.ReadBuildInfo(); ok {
		for _, m := range b.Deps {
			if m.Path == "k8s.io/kubernetes" {
				kubernetes = m.Version
			}
		}
	}
	return "holdfast-cluster: Kubernetes " + kubernetes + ", etcd v" + etcdversion.Version
}
