package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"holdfast.dev/internal/output"
	"holdfast.dev/monitor/smart"
)

func TestSmartTable(t *testing.T) {
	yes, hours, limit := true, uint64(11041), uint8(10)
	r := &smart.Report{Protocol: smart.ATA, Model: "EXAMPLE 8TB", Serial: "ZA1", Failing: &yes, PowerOnHours: &hours, Problems: []string{"error log: no answer"},
		ATA: &smart.ATAHealth{Attributes: []smart.Attribute{{ID: 5, Name: "reallocated sectors", Value: 9, Worst: 9, Threshold: &limit, Count: 4000}, {ID: 250, Count: 7}}}}
	var b bytes.Buffer
	if err := output.Print(&b, output.Table, nil, []string{"FIELD", "VALUE"}, smartRows(r)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"predicts its failure   true\n", "power-on               11041 h\n", "5 reallocated sectors  4000 (value 9, worst 9, threshold 10) FAILED\n",
		"250                    7 (value 0, worst 0, threshold unknown)\n", "failed self-tests      unknown\n", "not read               error log: no answer\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no line %q in:\n%s", want, b.String())
		}
	}
	if strings.Contains(b.String(), "temperature") {
		t.Errorf("a temperature that the disk does not tell:\n%s", b.String())
	}
}

// One disk that fails is an error, and is in the output beside the others.
func TestSmartOfNoDisk(t *testing.T) {
	var b bytes.Buffer
	err := runSmart(t.Context(), &b, []string{"-o", "json", "/dev/null", "/dev/does-not-exist"})
	if err == nil || !strings.Contains(err.Error(), "/dev/null") || !strings.Contains(err.Error(), "/dev/does-not-exist") {
		t.Errorf("error %v", err)
	}
	var got []diskReport
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatalf("%v in %s", err, b.String())
	}
	if len(got) != 2 || got[0].Error == "" || got[0].Report != nil {
		t.Errorf("printed %s", b.String())
	}
	for _, args := range [][]string{nil, {"-o", "xml", "/dev/null"}, {"-timeout", "0s", "/dev/null"}, {"-d", "auto", "/dev/null"}, {"-d", "megaraid", "/dev/null"}} {
		if err := runSmart(t.Context(), &b, args); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
	// The message spoke of the line of a file, and of a list in it.
	const want = `smart: -d: type "megaraid" names no drive of the adapter (write its number, such as megaraid,0)`
	if err := runSmart(t.Context(), &b, []string{"-d", "megaraid", "/dev/null"}); err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}
