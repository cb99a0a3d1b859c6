package hub_test

import (
	"encoding/json"
	"net/http"
	"testing"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/gitops/protocol"
	"holdfast.dev/gitops/trust"
)

// TestPlan puts a question to two clusters through their long polls: each gets
// its own bundle alone, and the answers come back together.
func TestPlan(t *testing.T) {
	f := newFleet(t)
	url, stop := f.start()
	defer stop()
	st := f.await(url, "publication to the canary", func(st protocol.Status) bool { return len(published(st)) == 1 })
	canary, other := f.agent(url, "canary"), f.agent(url, "az1-c1")
	canary.reportAt(f.index("canary"), st.Clusters[0].Revision, v1alpha1.HealthHealthy)
	st = f.await(url, "publication to az1", func(st protocol.Status) bool { return len(published(st)) == 2 })
	other.reportAt(f.index("az1-c1"), st.Clusters[1].Revision, v1alpha1.HealthProgressing)

	admin := f.as(url, trust.Identity{Kind: trust.Admin, Name: "planner"})
	req := protocol.PlanRequest{Bundles: map[string]protocol.PlanFiles{"canary": {"a": []byte("for the canary")}, "az1-c1": {"a": []byte("for az1")}}}
	if code, _ := canary.do(http.MethodPost, "/v1/plan", req); code != http.StatusForbidden {
		t.Errorf("a cluster may ask what all others would do: %d", code)
	}
	var plan protocol.Plan
	done := make(chan int, 1)
	go func() {
		code, body := admin.do(http.MethodPost, "/v1/plan", req)
		_ = json.Unmarshal(body, &plan)
		done <- code
	}()
	for i, a := range []*agent{canary, other} {
		var d protocol.Desired
		for d.Plan == "" { // the question may not have arrived yet
			_, body := a.do(http.MethodGet, "/v1/clusters/"+a.cluster+"/desired?after="+st.Clusters[i].Revision, nil)
			if err := json.Unmarshal(body, &d); err != nil {
				t.Fatal(err)
			}
		}
		path := "/v1/clusters/" + a.cluster + "/plans/" + d.Plan
		code, body := a.do(http.MethodGet, path, nil)
		var files protocol.PlanFiles
		if err := json.Unmarshal(body, &files); err != nil || code != http.StatusOK || string(files["a"]) != string(req.Bundles[a.cluster]["a"]) {
			t.Fatalf("%s was asked %d %q (%v)", a.cluster, code, files["a"], err)
		}
		rep := protocol.PlanReport{Cluster: "somebody else", Changes: []protocol.PlanChange{{Addon: "x", Object: a.cluster, Action: protocol.PlanRefused}}}
		if code, body := a.do(http.MethodPost, path, rep); code != http.StatusNoContent {
			t.Fatalf("report: %d %s", code, body)
		}
	}
	if code := <-done; code != http.StatusOK || len(plan.Clusters) != 2 {
		t.Fatalf("plan: %d %+v", code, plan)
	}
	for i, name := range []string{"az1-c1", "canary"} {
		if c := plan.Clusters[i]; c.Cluster != name || c.Changes[0].Object != name {
			t.Errorf("answer %d is %+v, want that of %s: a cluster speaks for itself alone", i, c, name)
		}
	}
}
