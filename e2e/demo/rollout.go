package demo

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"holdfast.dev/addons"
	"holdfast.dev/e2e/fleet"
	"holdfast.dev/e2e/wait"
	"holdfast.dev/gitops/render"
)

// rolloutTimeout bounds one rollout through all three rings.
const rolloutTimeout = 2 * time.Minute

// stepFirstPush: git push of the initial fleet makes all addons healthy, canary first.
func (d *demo) stepFirstPush(ctx context.Context) error {
	w := d.world
	if err := w.fleet.Init(ctx, render.InitOptions{}); err != nil {
		return err
	}
	// The demo's disks are small and its patience short; a person would edit the same lines.
	if err := d.tuneFleet(); err != nil {
		return err
	}
	commit, err := w.fleet.Commit(ctx, "the fleet")
	if err != nil {
		return err
	}
	start, err := w.fleet.Push(ctx)
	if err != nil {
		return err
	}
	d.rep.ok("git push of the fleet was accepted after %s: verified by the repository's hook", seconds(time.Since(start)))
	got, err := w.awaitRollout(ctx, commit)
	if err != nil {
		return err
	}
	if err := d.canaryFirst(ctx, got, "initial fleet"); err != nil {
		return err
	}
	d.printLatency(start, got)
	if err := d.show(ctx, "status"); err != nil {
		return err
	}
	st, err := w.fleet.Status(ctx)
	if err != nil {
		return err
	}
	for _, s := range w.sites {
		d.firstDigest[s.name] = fleet.ClusterOf(st, s.name).Published
	}
	return nil
}

// canaryFirst checks that no later ring had anything before the canary was healthy.
func (d *demo) canaryFirst(ctx context.Context, got map[string]fleet.Landed, what string) error {
	st, err := d.world.fleet.Status(ctx)
	if err != nil {
		return err
	}
	for _, name := range []string{"az1-c1", "az2-c1"} {
		first := got[name].Healthy
		for _, a := range fleet.ClusterOf(st, name).Report.Addons {
			if a.AppliedAt.After(got["canary"].Applied.Add(-time.Millisecond)) && a.AppliedAt.Before(first) {
				first = a.AppliedAt
			}
		}
		if first.Before(got["canary"].Healthy) {
			return fmt.Errorf("%s: %s had it at %s, the canary was healthy only at %s", what, name, first.Format(time.StampMicro), got["canary"].Healthy.Format(time.StampMicro))
		}
	}
	d.rep.ok("%s: healthy on canary, then az1, then az2", what)
	return nil
}

func (d *demo) printLatency(start time.Time, got map[string]fleet.Landed) {
	for _, s := range d.world.sites {
		l := got[s.name]
		d.rep.line("     push → applied on %-7s %7s   healthy %7s", s.name, seconds(l.Applied.Sub(start)), seconds(l.Healthy.Sub(start)))
	}
	d.pushToApplied = append(d.pushToApplied, got["canary"].Applied.Sub(start).Seconds())
}

// stepPillar: a changed pillar value re-renders only what reads it.
func (d *demo) stepPillar(ctx context.Context) error {
	w := d.world
	if err := w.fleet.AddFile("salt/pillar/common.sls", "\nremediation-controller:\n  planTimeout: 24h\n"); err != nil {
		return err
	}
	commit, err := w.fleet.Commit(ctx, "remediation: plans may take a day")
	if err != nil {
		return err
	}
	d.pillarCommit = commit
	start, err := w.fleet.Push(ctx)
	if err != nil {
		return err
	}
	got, err := w.awaitRollout(ctx, commit)
	if err != nil {
		return err
	}
	st, err := w.fleet.Status(ctx)
	if err != nil {
		return err
	}
	if st.Rendered == 0 {
		return fmt.Errorf("nothing was rendered")
	}
	for _, u := range st.RenderedUnits {
		if !strings.Contains(u, "remediation-controller") {
			return fmt.Errorf("the pillar value of remediation-controller re-rendered %s", u)
		}
	}
	d.rep.ok("pillar change: %d unit was rendered (%s), %d came from the cache", st.Rendered, strings.Join(st.RenderedUnits, ", "), st.Cached)
	if err := d.canaryFirst(ctx, got, "pillar change"); err != nil {
		return err
	}
	d.printLatency(start, got)
	return nil
}

// badPush is a push that must be refused.
type badPush struct {
	name string
	edit func(w *world) error
	want []string // what the person must read
}

func badPushes() []badPush {
	return []badPush{
		{"broken Jinja", func(w *world) error {
			if err := w.bump("disk-monitor"); err != nil {
				return err
			}
			return w.fleet.Edit("salt/states/disk-monitor/init.sls", "/etc/kubernetes/addons/disk-monitor/daemonset.yaml:", "{% if %}/etc/kubernetes/addons/disk-monitor/daemonset.yaml:")
		}, []string{"salt/states/disk-monitor/init.sls:"}},
		{"invalid manifest", func(w *world) error {
			if err := w.bump("remediation-controller"); err != nil {
				return err
			}
			return w.fleet.AddFile("salt/states/remediation-controller/files/rbac.yaml", "---\napiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: extra\n  namespace: holdfast-system\nautomountServiceAcountToken: false\n")
		}, []string{"salt/states/remediation-controller/files/rbac.yaml:", "automountServiceAcountToken"}},
		{"cluster in no ring", func(w *world) error {
			return w.fleet.Edit("fleet.yaml", "clusters:\n", "clusters:\n- {name: az9-c1, az: az9, kubernetes: \"1.36\", labels: {tier: lost}}\n")
		}, []string{"fleet.yaml:", "az9-c1"}},
		{"content changed, version not", func(w *world) error {
			return w.fleet.AddFile("salt/states/disk-monitor/files/daemonset.yaml.jinja", "# changed\n")
		}, []string{"addons/disk-monitor/addon.yaml:", "version"}},
	}
}

// stepBadPushes: what must not pass is refused in git push, with file, line and remedy.
func (d *demo) stepBadPushes(ctx context.Context) error {
	w := d.world
	before, err := w.fleet.Status(ctx)
	if err != nil {
		return err
	}
	for _, b := range badPushes() {
		if err := b.edit(w); err != nil {
			return err
		}
		if _, err := w.fleet.Commit(ctx, b.name); err != nil {
			return err
		}
		said, err := w.fleet.PushRefused(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", b.name, err)
		}
		for _, want := range b.want {
			if !strings.Contains(said, want) {
				return fmt.Errorf("%s: the refusal does not say %q:\n%s", b.name, want, indent(said))
			}
		}
		d.rep.ok("%s: refused in git push", b.name)
		d.rep.line("%s", indent(said))
	}
	after, err := w.fleet.Status(ctx)
	if err != nil {
		return err
	}
	for _, s := range w.sites {
		if fleet.ClusterOf(before, s.name).Revision != fleet.ClusterOf(after, s.name).Revision {
			return fmt.Errorf("a refused push reached %s", s.name)
		}
	}
	d.rep.ok("nothing of it reached any cluster")
	return nil
}

// bump raises an addon's version.
func (w *world) bump(addon string) error {
	file := addons.File(addon)
	data, err := os.ReadFile(filepath.Join(w.fleet.Work, filepath.FromSlash(file)))
	if err != nil {
		return err
	}
	a, err := addons.Load(file, data)
	if err != nil {
		return err
	}
	next := a.Version.IncPatch()
	return w.fleet.Edit(file, "version: "+a.Version.String()+"\n", "version: "+next.String()+"\n")
}

// stepSickCanary: a change that passes every check but does not run stays on the canary.
func (d *demo) stepSickCanary(ctx context.Context) error {
	w := d.world
	before, err := w.fleet.Status(ctx)
	if err != nil {
		return err
	}
	if err := w.bump("disk-monitor"); err != nil {
		return err
	}
	if err := w.fleet.Edit("addons/disk-monitor/addon.yaml", "registry.holdfast.dev/disk-monitor:", "registry.holdfast.dev/disk-monitr:"); err != nil {
		return err
	}
	commit, err := w.fleet.Commit(ctx, "disk-monitor, with a typing error in its image")
	if err != nil {
		return err
	}
	if _, err := w.fleet.Push(ctx); err != nil {
		return err
	}
	var why string
	took, err := wait.Until(ctx, time.Minute, "halt at the canary", func() (bool, error) {
		st, err := w.fleet.Status(ctx)
		if err != nil || st.Commit != commit {
			return false, err
		}
		for _, s := range w.sites[1:] {
			if fleet.ClusterOf(st, s.name).Revision != fleet.ClusterOf(before, s.name).Revision {
				return false, fmt.Errorf("the sick change reached %s", s.name)
			}
		}
		for _, r := range st.Rings {
			if r.Phase == "Halted" {
				why = r.Name + ": " + r.Message
				return true, nil
			}
		}
		return false, nil
	})
	if err != nil {
		return err
	}
	d.rep.ok("an image that does not exist halts at the canary after %s; az1 and az2 stay as they are", seconds(took))
	d.rep.line("%s", indent(why))
	fixed, err := w.fleet.Revert(ctx, "HEAD")
	if err != nil {
		return err
	}
	start, err := w.fleet.Push(ctx)
	if err != nil {
		return err
	}
	if _, err := w.awaitRollout(ctx, fixed); err != nil {
		return err
	}
	d.rep.ok("git revert heals the canary in %s", seconds(time.Since(start)))
	return nil
}

// stepRevert: going back is the previous digest everywhere, and renders nothing.
func (d *demo) stepRevert(ctx context.Context) error {
	w := d.world
	commit, err := w.fleet.Revert(ctx, d.pillarCommit)
	if err != nil {
		return err
	}
	start, err := w.fleet.Push(ctx)
	if err != nil {
		return err
	}
	got, err := w.awaitRollout(ctx, commit)
	if err != nil {
		return err
	}
	st, err := w.fleet.Status(ctx)
	if err != nil {
		return err
	}
	for _, s := range w.sites {
		if now := fleet.ClusterOf(st, s.name).Published; now != d.firstDigest[s.name] {
			return fmt.Errorf("%s is at %s, not at the first digest %s", s.name, now, d.firstDigest[s.name])
		}
	}
	if st.Rendered != 0 {
		return fmt.Errorf("%d units were rendered: %v", st.Rendered, st.RenderedUnits)
	}
	d.rep.ok("git revert + push: the first digest on every cluster, %d units from the cache, 0 rendered", st.Cached)
	d.printLatency(start, got)
	return nil
}
