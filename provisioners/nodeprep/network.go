package nodeprep

import "fmt"

// A disk that is reached over a network may be other hosts' as well, each of which may find it
// blank. So none gets a place on a node. Its id is of where it is (diskid.Identify), but for Fibre
// Channel. Earlier versions took such disks by the ids that they tell as drives: what was prepared
// so is neither taken up nor given up, and a person is told.

// reached is how a disk is reached over a network, for a person.
func (f *Found) reached() string {
	return fmt.Sprintf("reached over a network (%s), where other hosts may have it too: node preparation takes disks of the host alone", f.Network)
}

// networked is for a disk that is reached over a network and was not prepared before.
func (p *planner) networked(r *Row, f *Found, rec *Record) {
	r.Condition, r.Has = Networked, f.reached()
	if rec == nil && p.Tokens[f.ID] == "" {
		return
	}
	r.Refused, r.Has = "it is "+f.reached(), ""
	r.Hint = "connect a disk to the host itself, or offer this one through a CSI driver of its own and not as a disk of the node"
}

// elsewhere is for the place of a disk that is there, over a network and by another id.
func (p *planner) elsewhere(r *Row, f *Found) {
	r.Device, r.Slot, r.Media, r.Size, r.Network = f.Device, f.Slot, f.Media, f.Size, f.Network
	if f.Content.System {
		r.Condition, r.Has = SystemDisk, "the host itself lives on it; it is "+f.reached()
		return
	}
	r.Condition = Networked
	r.Refused = fmt.Sprintf("it has a place on this node, and is %s; it is left as it is, and the disk monitor knows it as %s", f.reached(), f.ID)
	r.Hint = fmt.Sprintf("move its data to a disk of the host, disconnect it, and give its place to that disk: --replace %s=<new disk>", r.Disk)
}

// networkToken refuses a token for a disk that is reached over a network, whichever of its ids is named.
func (p *planner) networkToken(id string) {
	if f := p.found[id]; f != nil && f.Network != "" && p.State.Disks[id] == nil {
		p.problem("--wipe names disk %s, which is %s", id, f.reached())
	} else if f := p.told[id]; p.found[id] == nil && f != nil {
		p.problem("--wipe names disk %s, which is %s (%s), and is %s", id, f.ID, f.Device, f.reached())
	}
}
