package agent_test

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"holdfast.dev/e2e/cluster"
	"holdfast.dev/gitops/agent"
	"holdfast.dev/gitops/agent/bootstrap"
	"holdfast.dev/gitops/protocol"
)

// giveRights applies what "holdfast join --apply=other" prints, but for the Deployment.
func (r *rig) giveRights() {
	r.t.Helper()
	data, err := bootstrap.Manifests(bootstrap.Options{Cluster: r.name, Hub: r.url, HubCA: []byte("x"), Token: "x", Image: "x", StatusCRD: []byte("{}"), Apply: "other"})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, text := range strings.Split(string(data), "\n---\n")[1:] {
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(text), o); err != nil {
			r.t.Fatal(err)
		}
		if o.GetKind() == "Deployment" {
			if !strings.Contains(text, "--apply=other") {
				r.t.Error("the Deployment does not say --apply=other")
			}
			continue
		}
		if err := r.c.Apply(r.t.Context(), client.ApplyConfigurationFromUnstructured(o), client.FieldOwner("kubectl")); err != nil {
			r.t.Fatal(err)
		}
		if o.GetKind() != "Namespace" { // the next test has the same API server
			r.t.Cleanup(func() { _ = r.c.Delete(context.WithoutCancel(r.t.Context()), o) })
		}
	}
}

// letRead is what docs/interop.md says to do for a group that the role does not name.
func (r *rig) letRead(group string) {
	r.t.Helper()
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "readonly-more"}, Rules: []rbacv1.PolicyRule{{Verbs: []string{"get", "list", "watch"}, APIGroups: []string{group}, Resources: []string{"*"}}}}
	binding := &rbacv1.ClusterRoleBinding{ObjectMeta: role.ObjectMeta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "holdfast-agent", Namespace: "holdfast-system"}}}
	for _, o := range []client.Object{role, binding} {
		if err := r.c.Create(r.t.Context(), o); err != nil {
			r.t.Fatal(err)
		}
		r.t.Cleanup(func() { _ = r.c.Delete(context.WithoutCancel(r.t.Context()), o) })
	}
}

// TestReadsOnly: beside Flux or Argo CD the agent had every right and used few.
// With those that it is given it observes, reports and answers, and can write
// nothing but its own.
func TestReadsOnly(t *testing.T) {
	r := newRig(t, "c13")
	r.stop()
	r.giveRights()
	r.apply, r.as, r.identity = agent.ApplyOther, "system:serviceaccount:holdfast-system:holdfast-agent", "holdfast-system/holdfast-agent-identity"
	r.invite()
	r.start()
	// Things that the API server spells otherwise than their authors.
	limits := func(cpu string) string {
		return "apiVersion: v1\nkind: LimitRange\nmetadata: {name: readonly, namespace: default}\nspec: {limits: [{type: Container, max: {cpu: " + cpu + ", memory: 1024Mi}}]}\n"
	}
	class := "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: readonly}\nprovisioner: example.com/x\nallowVolumeExpansion: false\n"
	role := "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: readonly}\nrules: [{apiGroups: [\"\"], resources: [secrets], verbs: [get]}]\n"
	definition := widgets("Widget", version("v1", true, "properties: {size: {type: integer, minimum: 1.0}}"))
	made := func(value, cpu, size string) map[string][]byte {
		return bundle(t, "c13", map[string]addon{
			"defs": {"0.1.0", map[string]string{"w.yaml": definition}},
			"uses": {"0.1.0", map[string]string{"w.yaml": widget("v1", "Widget", "size: "+size), "a.yaml": configMap("readonly-a", value), "l.yaml": limits(cpu), "c.yaml": class, "r.yaml": role}},
		})
	}
	t.Cleanup(func() {
		for _, text := range []string{definition, class, role, limits("1")} {
			o := &unstructured.Unstructured{}
			if err := yaml.Unmarshal([]byte(text), o); err != nil {
				t.Error(err)
			}
			_ = r.c.Delete(context.WithoutCancel(t.Context()), o)
		}
	})
	first := made("1", "0.5", "1")
	r.hub.want(first)
	r.until("the wait", func() bool {
		a := r.hub.last().Addons
		return len(a) == 2 && strings.Contains(a[0].Message, "waits for whoever applies it: CustomResourceDefinition.apiextensions.k8s.io widgets.plan.example.com is not yet as the bundle has it")
	})
	definitions := map[string][]byte{pathOf(first, "widgets"): first[pathOf(first, "widgets")]}
	r.applyAs(definitions, "kustomize-controller")
	kind := &unstructured.UnstructuredList{Object: map[string]any{"apiVersion": "plan.example.com/v1", "kind": "WidgetList"}}
	r.until("the kind to be served", func() bool { return r.c.List(t.Context(), kind) == nil })
	r.applyAs(first, "kustomize-controller")
	r.until("word of a kind that the role does not name", func() bool {
		a := r.hub.last().Addons
		return len(a) == 2 && strings.Contains(a[1].Message, "Widget.plan.example.com default/w is not yet as the bundle has it: the agent cannot see it") && strings.Contains(a[1].Message, "bind a ClusterRole")
	})
	r.letRead("plan.example.com")
	r.stop() // it would see that by itself, after the pause of a list that failed
	r.start()
	r.until("health of what the other applied", func() bool { return r.settled(first) })

	second := made("2", "0.75", "2")
	r.hub.plan(second)
	r.until("the answer", func() bool { return r.hub.answered() != nil })
	got := *r.hub.answered()
	fields := map[string]string{"ConfigMap default/readonly-a": "data.value", "LimitRange default/readonly": "spec.limits[0].max.cpu", "Widget.plan.example.com default/w": "spec.size"}
	for _, c := range got.Changes {
		if c.Action != protocol.PlanChanged || len(c.Fields) != 1 || c.Fields[0] != fields[c.Object] || c.Message != "not tried: the agent may only read here" {
			t.Errorf("the plan has %+v", c)
		}
	}
	if got.Error != "" || len(got.Changes) != len(fields) {
		t.Errorf("the plan is %+v", got)
	}
	r.hub.want(second)
	r.until("the wait for the change", func() bool {
		for _, a := range r.hub.last().Addons {
			if a.Name == "uses" && strings.Contains(a.Message, "waits for") && a.AppliedDigest != a.DesiredDigest {
				return true
			}
		}
		return false
	})
	r.applyAs(second, "kustomize-controller")
	r.until("health of the change", func() bool { return r.settled(second) })
	r.refusesWrites()
}

// refusesWrites tries, as the agent, what it must not do.
func (r *rig) refusesWrites() {
	r.t.Helper()
	cfg := cluster.ForTest(r.t).RESTConfig()
	cfg.Impersonate.UserName = r.as
	c, err := client.New(cfg, client.Options{Scheme: r.c.Scheme()})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx := r.t.Context()
	own := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "readonly-a", Namespace: "default"}}
	if err := c.Get(ctx, client.ObjectKeyFromObject(own), own); err != nil {
		r.t.Errorf("it cannot read what it is to read: %v", err)
	}
	patch := client.RawPatch("application/merge-patch+json", []byte(`{"data":{"value":"mine"}}`))
	admin := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "readonly-mine"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"}}
	secret := func(name string) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "holdfast-system"}}
	}
	for what, err := range map[string]error{
		"create an object":        c.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "readonly-mine", Namespace: "default"}}),
		"change an object":        c.Update(ctx, own.DeepCopy()),
		"patch an object":         c.Patch(ctx, own.DeepCopy(), patch),
		"try a patch":             c.Patch(ctx, own.DeepCopy(), patch, client.DryRunAll),
		"delete an object":        c.Delete(ctx, own.DeepCopy()),
		"give itself rights":      c.Create(ctx, admin),
		"make a Secret":           c.Create(ctx, secret("readonly-mine")),
		"read a Secret":           c.Get(ctx, client.ObjectKey{Namespace: "holdfast-system", Name: "holdfast-agent-hub"}, secret("")),
		"list Secrets":            c.List(ctx, &corev1.SecretList{}),
		"write into another kind": c.Status().Update(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}),
	} {
		if !apierrors.IsForbidden(err) {
			r.t.Errorf("the agent may %s: %v", what, err)
		}
	}
	if r.value("readonly-a") != "2" {
		r.t.Errorf("the object is %q now", r.value("readonly-a"))
	}
}
