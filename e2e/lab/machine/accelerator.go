package machine

import (
	"context"
	"os"
	"time"

	"holdfast.dev/e2e/lab/image"
	"holdfast.dev/internal/hostexec"
)

// Accelerators.
const (
	KVM = "kvm"
	TCG = "tcg" // software emulation
)

// kvmTrial is how long the kernel may take to boot and to panic under KVM; it
// takes about a second where KVM works.
const kvmTrial = 10 * time.Second

// Accelerator says what a machine of this image can run on: KVM where that
// really boots the image's kernel, else software emulation. That /dev/kvm can
// be opened proves nothing: some hosts have one that boots special kernels only.
func Accelerator(ctx context.Context, img image.Image) string {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return TCG
	}
	_ = f.Close() // nothing was written
	// Without a root file system the kernel panics, which ends QEMU with code 0.
	_, err = hostexec.Run(ctx, kvmTrial, hostexec.Command{Path: qemu, Args: []string{
		"-machine", "pc", "-accel", KVM, "-cpu", "host", "-m", "256", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", img.Kernel, "-append", "panic=-1"}})
	if err != nil {
		return TCG
	}
	return KVM
}
