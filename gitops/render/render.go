// Package render turns a fleet repository into one bundle for each cluster:
// fleet.yaml, Salt's states and pillar, kustomize, and a strict check of every
// object. It is pure: files in, bundles out, the same bytes on any machine. There
// is no clock, network, environment or command in it; the only effect is on the
// [Cache] that the caller gives.
package render

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"holdfast.dev/addons"
	"holdfast.dev/gitops/fleet"
	"holdfast.dev/gitops/secretscan"
	"holdfast.dev/internal/strictyaml"
	"holdfast.dev/kustomize"
	"holdfast.dev/salt"
	"holdfast.dev/salt/jinja"
	"holdfast.dev/salt/pyyaml"
)

// Result is a rendered fleet.
type Result struct {
	Fleet *fleet.Fleet
	// Bundles by cluster.
	Bundles map[string]*Bundle
	// Rendered and Cached count units: those that were rendered, and those whose
	// output was known, from the cache or from another cluster.
	Rendered, Cached int
	// RenderedUnits names the former as cluster/addon, sorted.
	RenderedUnits []string
	// CacheError is the first trouble with the cache. The bundles are right all the same.
	CacheError error
	// Retained has, by cluster, the objects of which people said that they stay
	// although the bundle no longer has them.
	Retained map[string][]fleet.Retention
}

// Fleet renders every unit of the tree. commit is noted in the bundles; cache
// may be nil. The error joins every independent fault, each one line that names
// file, line and remedy; a context's end is returned as it is.
func Fleet(ctx context.Context, tree Tree, commit string, cache Cache) (*Result, error) {
	data, ok := tree.File(fleet.File)
	if !ok {
		return nil, &strictyaml.Error{File: fleet.File, Msg: "there is no such file", Hint: "make a fleet repository with holdfast init"}
	}
	f, err := fleet.Compile(fleet.File, data)
	approved := &fleet.Approvals{}
	if text, ok := tree.File(fleet.ApprovalsFile); ok && err == nil {
		approved, err = f.Approvals(fleet.ApprovalsFile, text)
	}
	catalogue, faults := loadAddons(tree)
	var policies []policy
	if err == nil {
		var wrong []error
		policies, wrong = compilePolicies(f)
		faults = append(faults, wrong...)
	}
	faults = append(faults, scanSecrets(tree)...)
	if err != nil || len(faults) > 0 {
		return nil, joined(append([]error{err}, faults...))
	}
	if err := joined(checkFolders(tree, f, catalogue)); err != nil {
		return nil, err
	}
	perCluster := make([][]*unit, len(f.Clusters))
	errs := make([]error, len(f.Clusters))
	known := &shared{}
	each(len(f.Clusters), func(i int) {
		if ctx.Err() == nil {
			perCluster[i], errs[i] = units(tree, &f.Clusters[i], catalogue, known)
		}
	})
	if err := errors.Join(ctx.Err(), joined(errs)); err != nil {
		return nil, err
	}
	all := slices.Concat(perCluster...)
	cacheErr := renderAll(ctx, tree, all, cache)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	res := &Result{Fleet: f, Bundles: map[string]*Bundle{}, CacheError: cacheErr, Retained: approved.Retained}
	errs = errs[:0]
	for _, u := range all {
		errs = append(errs, u.err)
		if u.cached {
			res.Cached++
		} else {
			res.Rendered++
			res.RenderedUnits = append(res.RenderedUnits, u.name())
		}
	}
	if err := joined(errs); err != nil {
		return nil, err
	}
	decoded := map[string]map[string]any{}
	for i := range f.Clusters {
		errs = append(errs, checkPolicies(policies, &f.Clusters[i], perCluster[i], decoded)...)
	}
	if err := joined(errs); err != nil {
		return nil, err
	}
	slices.Sort(res.RenderedUnits)
	if err := res.assemble(commit, f, perCluster, approved.Deletions); err != nil {
		return nil, err
	}
	return res, nil
}

func (r *Result) assemble(commit string, f *fleet.Fleet, perCluster [][]*unit, deletions map[string][]fleet.Deletion) error {
	bundles, errs := make([]*Bundle, len(f.Clusters)), make([]error, len(f.Clusters))
	each(len(f.Clusters), func(i int) {
		var err error
		bundles[i], err = newBundle(f.Clusters[i].Name, commit, perCluster[i], deletions[f.Clusters[i].Name])
		errs[i] = errors.Join(append(duplicates(perCluster[i]), err)...)
	})
	for i, b := range bundles {
		r.Bundles[f.Clusters[i].Name] = b
	}
	return joined(errs)
}

// scanSecrets looks at every file, those that nothing renders included.
func scanSecrets(tree Tree) []error {
	errs := make([][]error, len(tree.paths))
	each(len(tree.paths), func(i int) { errs[i] = secretscan.Scan(tree.paths[i], tree.files[tree.paths[i]]) })
	return slices.Concat(errs...)
}

// each calls f with every number below n, on all processors.
func each(n int, f func(i int)) {
	var next atomic.Int64
	var group sync.WaitGroup
	for range min(n, runtime.GOMAXPROCS(0)) {
		group.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	group.Wait()
}

// duplicates finds objects that two addons of a cluster both bring.
func duplicates(units []*unit) []error {
	type owner struct {
		addon string
		o     renderedObject
	}
	first := map[string]owner{}
	var errs []error
	for _, u := range units {
		for _, o := range u.out.Objects {
			if was, ok := first[o.ID]; ok {
				errs = append(errs, &strictyaml.Error{File: o.File, Line: o.Line, Msg: fmt.Sprintf("%s is in the addon %s and in %s (%s:%d)", o.ID, u.addon.Name, was.addon, was.o.File, was.o.Line), Hint: "remove one"})
				continue
			}
			first[o.ID] = owner{u.addon.Name, o}
		}
	}
	return errs
}

// joined joins errors, each text once: many clusters meet the same fault.
func joined(errs []error) error {
	seen := map[string]bool{}
	var out []error
	for _, err := range flatten(errs) {
		err = oneLine(err)
		if !seen[err.Error()] {
			seen[err.Error()] = true
			out = append(out, err)
		}
	}
	slices.SortStableFunc(out, byPlace)
	return errors.Join(out...)
}

// oneLine takes out line ends that came in with a name or a value.
func oneLine(err error) error {
	var e *strictyaml.Error
	if !strings.Contains(err.Error(), "\n") || !errors.As(err, &e) {
		return err
	}
	flat := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	return &strictyaml.Error{File: flat(e.File), Line: e.Line, Msg: flat(e.Msg), Hint: flat(e.Hint)}
}

func flatten(errs []error) []error {
	var out []error
	for _, err := range errs {
		if many, ok := err.(interface{ Unwrap() []error }); ok {
			out = append(out, flatten(many.Unwrap())...)
		} else if err != nil {
			out = append(out, err)
		}
	}
	return out
}

// byPlace orders faults by file and line.
func byPlace(a, b error) int {
	var x, y strictyaml.Error
	var p *strictyaml.Error
	if errors.As(a, &p) {
		x = *p
	}
	if errors.As(b, &p) {
		y = *p
	}
	return cmp.Or(strings.Compare(x.File, y.File), x.Line-y.Line, strings.Compare(x.Msg, y.Msg))
}

// loadAddons reads every addon.yaml of the repository.
func loadAddons(tree Tree) (map[string]*addons.Addon, []error) {
	out := map[string]*addons.Addon{}
	var errs []error
	for _, name := range tree.folders(addons.Dir) {
		file := addons.File(name)
		data, ok := tree.File(file)
		if !ok {
			errs = append(errs, &strictyaml.Error{File: file, Msg: "there is no such file", Hint: "add it, or remove the folder"})
			continue
		}
		// Values become pillar: the same traps, and the same bounds on aliases.
		_, err := pyyaml.One(&pyyaml.File{Name: file, Output: jinja.Plain(data)})
		var a *addons.Addon
		if err == nil {
			a, err = addons.Load(file, data)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if a.Name != name {
			errs = append(errs, a.Fault("name", fmt.Sprintf("the name %q is not the folder's, %q", a.Name, name), "make them the same"))
			continue
		}
		out[name] = a
	}
	return out, errs
}

// checkFolders refuses folders of kustomize that nothing would ever use, and those that two things would.
func checkFolders(tree Tree, f *fleet.Fleet, catalogue map[string]*addons.Addon) []error {
	var errs []error
	for _, name := range tree.folders(kustomize.ComponentsDir) {
		if catalogue[name] == nil {
			errs = append(errs, &strictyaml.Error{File: kustomize.ComponentsDir + "/" + name, Msg: "there is no addon of this name", Hint: "rename or remove the folder"})
		}
	}
	for _, name := range tree.folders(kustomize.OverlaysDir) {
		cluster := slices.ContainsFunc(f.Clusters, func(c fleet.Cluster) bool { return c.Name == name })
		az := slices.ContainsFunc(f.Clusters, func(c fleet.Cluster) bool { return c.AZ == name })
		switch file := kustomize.OverlaysDir + "/" + name; {
		case cluster && az:
			errs = append(errs, &strictyaml.Error{File: file, Msg: "names both a cluster and an availability zone", Hint: "rename one of them in " + fleet.File})
		case !cluster && !az:
			errs = append(errs, &strictyaml.Error{File: file, Msg: "there is no cluster and no availability zone of this name", Hint: "rename or remove the folder"})
		}
	}
	return errs
}

// units compiles what one cluster gets: its addons in order, with their inputs.
func units(tree Tree, c *fleet.Cluster, catalogue map[string]*addons.Addon, known *shared) ([]*unit, error) {
	grains := salt.Grains(c.Grains())
	states, err1 := salt.States(tree, grains, &known.texts)
	pillar, err2 := salt.Pillar(tree, grains, &known.texts)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	var errs []error
	bundle := map[string]*addons.Addon{}
	for _, s := range states {
		if catalogue[s.Name] == nil {
			errs = append(errs, &strictyaml.Error{File: s.Origin.File, Line: s.Origin.Line, Msg: fmt.Sprintf("the state %q is no addon", s.Name), Hint: "add " + addons.File(s.Name) + ", or remove it here"})
			continue
		}
		bundle[s.Name] = catalogue[s.Name]
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	sorted, err := addons.Sort(bundle)
	if err != nil {
		return nil, err
	}
	for _, a := range sorted {
		errs = append(errs, a.CheckCluster(c.Name, c.Kubernetes, bundle))
	}
	full, err := complete(pillar, sorted)
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	var out []*unit
	for _, a := range sorted {
		u := &unit{cluster: c, addon: a, known: known, in: salt.Inputs{Grains: grains, Pillar: full, Files: tree}}
		u.key = staticKey(tree, u)
		out = append(out, u)
	}
	return out, nil
}

// renderAll renders the units that are not known. Units with the same static
// inputs go one after the other, so that each can use what those before found.
func renderAll(ctx context.Context, tree Tree, all []*unit, cache Cache) error {
	byKey := map[string][]*unit{}
	var order []string
	for _, u := range all {
		if byKey[u.key] == nil {
			order = append(order, u.key)
		}
		byKey[u.key] = append(byKey[u.key], u)
	}
	cacheErrs := make([]error, len(order))
	each(len(order), func(i int) { cacheErrs[i] = renderAlike(ctx, tree, byKey[order[i]], cache) })
	for _, err := range cacheErrs {
		if err != nil {
			return err
		}
	}
	return nil
}

// renderAlike renders units that have the same static inputs.
func renderAlike(ctx context.Context, tree Tree, units []*unit, cache Cache) error {
	known, cacheErr := loadTraces(cache, units[0].key)
	type done struct {
		trace
		out *output
	}
	var here []done
	for _, u := range units {
		if ctx.Err() != nil {
			return cacheErr
		}
		if i := slices.IndexFunc(here, func(d done) bool { return d.matches(u.in) }); i >= 0 {
			u.out, u.cached = here[i].out, true
			continue
		}
		out, found, err := known.find(u.in)
		cacheErr = cmp.Or(cacheErr, err)
		if out != nil {
			u.out, u.cached = out, true
			here = append(here, done{found, out})
			continue
		}
		var reads []salt.Read
		if u.out, reads, u.err = u.render(tree); u.err != nil {
			continue // what a failed rendering has not read yet may matter for the next cluster
		}
		here = append(here, done{trace{Reads: reads}, u.out})
		cacheErr = cmp.Or(cacheErr, known.add(reads, u.out))
	}
	return cmp.Or(cacheErr, known.save())
}
