package render

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"holdfast.dev/addons"
	"holdfast.dev/kustomize"
	"holdfast.dev/salt"
)

// Published is the content that one version of an addon stands for.
type Published struct {
	Addon, Version string
	// Content is the SHA-256 of the addon's folders.
	Content string
}

// Contents lists what the tree's addon versions stand for. Addons that cannot be
// read are left out.
func Contents(t Tree) []Published {
	var out []Published
	catalogue, _ := loadAddons(t)
	for _, name := range t.folders(addons.Dir) {
		if a := catalogue[name]; a != nil {
			out = append(out, Published{name, a.Version.String(), contentHash(t, name)})
		}
	}
	return out
}

// contentFolders are what an addon's version stands for. Pillar and overlays are
// the fleet's own and need no version.
func contentFolders(addon string) []string {
	return []string{addons.Dir + "/" + addon, salt.StatesDir + "/" + addon, kustomize.ComponentsDir + "/" + addon}
}

func contentHash(t Tree, addon string) string {
	h := sha256.New()
	for _, dir := range contentFolders(addon) {
		for _, p := range t.Under(dir) {
			data, _ := t.File(p)
			h.Write(fmt.Appendf(nil, "%s\x00%x", p, sha256.Sum256(data)))
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// CheckVersions checks that every addon whose content differs between two trees
// has a higher version in the new one. A lower version is taken when it is known
// to have stood for the very same content: that is what git revert brings.
// Removing an addon is fine, and so is adding one, unless its version is known
// to have stood for other content.
func CheckVersions(old, new Tree, known ...Published) error {
	before, _ := loadAddons(old) // it was accepted as it is
	after, faults := loadAddons(new)
	for _, name := range new.folders(addons.Dir) {
		was, is := before[name], after[name]
		if was == nil && is != nil && stoodForOther(known, Published{name, is.Version.String(), contentHash(new, name)}) {
			faults = append(faults, is.Fault("version", fmt.Sprintf("%s %s was in this fleet before, with other content", name, is.Version), "raise the version"))
		}
		if was == nil || is == nil || is.Version.GreaterThan(was.Version) {
			continue
		}
		changed := firstChange(old, new, name)
		if changed == "" || is.Version.LessThan(was.Version) && slices.Contains(known, Published{name, is.Version.String(), contentHash(new, name)}) {
			continue
		}
		next := was.Version.IncPatch()
		msg := fmt.Sprintf("the version of %s is still %s, but %s has changed", name, is.Version, changed)
		if is.Version.LessThan(was.Version) {
			msg = fmt.Sprintf("the version of %s goes back from %s to %s, which never had this content: %s differs", name, was.Version, is.Version, changed)
		}
		faults = append(faults, is.Fault("version", msg, "write version: "+next.String()))
	}
	return joined(faults)
}

// AddsAddon is true when the new tree has an addon that the old one lacks:
// CheckVersions then wants to know what was there before.
func AddsAddon(old, new Tree) bool {
	had := old.folders(addons.Dir)
	return slices.ContainsFunc(new.folders(addons.Dir), func(name string) bool { return !slices.Contains(had, name) })
}

func stoodForOther(known []Published, p Published) bool {
	same := func(k Published) bool { return k == p }
	return !slices.ContainsFunc(known, same) && slices.ContainsFunc(known, func(k Published) bool { return k.Addon == p.Addon && k.Version == p.Version })
}

// firstChange names the first file of the addon that was changed, added or removed.
func firstChange(old, new Tree, addon string) string {
	for _, dir := range contentFolders(addon) {
		paths := slices.Concat(old.Under(dir), new.Under(dir))
		slices.Sort(paths)
		for _, p := range slices.Compact(paths) {
			a, was := old.File(p)
			b, is := new.File(p)
			if was != is || !bytes.Equal(a, b) {
				return p
			}
		}
	}
	return ""
}
