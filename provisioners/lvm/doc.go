// Package lvm is the CSI driver lvm.holdfast.dev: logical volumes in the volume
// groups that node preparation made, one container per node. The Engine changes
// volumes, and is all that knows LVM; the CSI services, the provisioner, the
// resizer and the capacity publisher translate. Transfers carry volumes between nodes.
// What is decided without running
// anything is in package vg. See provisioners/README.md.
package lvm

import "holdfast.dev/provisioners/lvm/inventory"

// DriverName is the name of the CSI driver, of its provisioner and of its topology.
const DriverName = inventory.DriverName

// TopologyKey is the label that the kubelet puts on each Node with the driver.
const TopologyKey = inventory.TopologyKey
