package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets the scripts run this test binary as node-prepare, and as the
// programs that it asks about disks, which are files here.
func TestMain(m *testing.M) {
	device := func() string {
		name, err := os.Readlink(os.Args[len(os.Args)-1]) // an open file that was inherited
		if err != nil {
			return os.Args[len(os.Args)-1]
		}
		return name
	}
	dirty := func() bool {
		data, err := os.ReadFile(device())
		return err == nil && len(data) > 0 && data[0] != 0
	}
	testscript.Main(m, map[string]func(){
		"node-prepare": func() { os.Exit(prepare()) },
		"blkid": func() {
			if !dirty() {
				os.Exit(2)
			}
			fmt.Println("TYPE=xfs\nUUID=11111111-2222-4333-8444-555555555555")
		},
		"wipefs": func() {
			if dirty() {
				fmt.Println(`{"signatures": [{"type": "xfs", "uuid": "11111111-2222-4333-8444-555555555555"}]}`)
				return
			}
			fmt.Println(`{"signatures": []}`)
		},
		"lsblk": func() {
			info, err := os.Stat(device())
			if err != nil {
				os.Exit(32)
			}
			fmt.Fprintf(os.Stdout, `{"blockdevices": [{"name": %q, "size": %d, "fstype": null, "pttype": null}]}`, filepath.Base(device()), info.Size())
		},
	})
}

// TestScripts runs testdata/script: the command line as a person uses it, on a
// host whose disks are files.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// disk DEVICE MIB [TEXT] plugs a disk into host/, with text at its begin.
			"disk": func(ts *testscript.TestScript, _ bool, args []string) {
				var mib int64
				if _, err := fmt.Sscan(args[1], &mib); err != nil {
					ts.Fatalf("disk: %v", err)
				}
				write := func(name, data string) {
					file := ts.MkAbs(filepath.Join("host", name))
					ts.Check(os.MkdirAll(filepath.Dir(file), 0o755))
					ts.Check(os.WriteFile(file, []byte(data), 0o644))
				}
				write("dev/"+args[0], "")
				if len(args) > 2 {
					write("dev/"+args[0], args[2])
				}
				ts.Check(os.Truncate(ts.MkAbs("host/dev/"+args[0]), mib<<20))
				for name, data := range map[string]string{
					"size": fmt.Sprint(mib << 11), "ro": "0", "dev": fmt.Sprintf("8:%d", 16*(args[0][2]-'a')), "queue/rotational": "0",
					"queue/logical_block_size": "512", "device/wwid": "naa.5000c500a1b2c3d" + args[0][2:],
				} {
					write("sys/block/"+args[0]+"/"+name, data)
				}
				write("proc/1/mountinfo", "22 1 8:0 / / rw - ext4 /dev/sda rw\n")
			},
		},
	})
}
