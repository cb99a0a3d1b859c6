package server

import (
	"runtime/debug"
	_ "unsafe" // for go:linkname

	etcdversion "go.etcd.io/etcd/api/v3/version"
	componentversion "k8s.io/component-base/version"
)

// The variable that Kubernetes' release build sets with -ldflags -X. A build
// that forgets the flag would tell its clients v0.0.0-master; go.mod knows
// better, in any build.
//
//go:linkname gitVersion k8s.io/component-base/version.gitVersion
var gitVersion string

// setVersion makes the API server report the version of the Kubernetes module.
func setVersion() error {
	gitVersion = kubernetesVersion()
	return componentversion.SetDynamicVersion(gitVersion)
}

// Version says which versions of Kubernetes and etcd this is.
func Version() string {
	return "Kubernetes " + kubernetesVersion() + ", etcd v" + etcdversion.Version
}

func kubernetesVersion() string {
	b, _ := debug.ReadBuildInfo()
	for _, m := range b.Deps {
		if m.Path == "k8s.io/kubernetes" {
			return m.Version
		}
	}
	return "unknown"
}
