package disk

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// namespaceEnv holds the mount namespace that EnterNamespace made, so that the
// second run of the program knows itself.
const namespaceEnv = "HOLDFAST_NODE_MNT_NAMESPACE"

// EnterNamespace gives the whole process a private mount namespace. A running
// Go program cannot change the namespace of its threads, so it runs itself anew,
// in the same process, and returns only there (or with an error). Call it before
// anything else in main; its caller's init must have locked the main thread
// when the death signal of the parent is to stay in force, since that belongs to
// a thread (prctl(2) PR_SET_PDEATHSIG).
func EnterNamespace() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ns, err := os.Readlink("/proc/thread-self/ns/mnt")
	if err != nil {
		return fmt.Errorf("enter mount namespace: %w", err)
	}
	if os.Getenv(namespaceEnv) == ns {
		return nil
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if ns, err = os.Readlink("/proc/thread-self/ns/mnt"); err != nil {
		return fmt.Errorf("enter mount namespace: %w", err)
	}
	if err := os.Setenv(namespaceEnv, ns); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return fmt.Errorf("run %s anew: %w", self, unix.Exec(self, os.Args, os.Environ()))
}
