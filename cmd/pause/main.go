// Command pause is the first process of a pod: it holds the pod's namespaces
// and, where the process namespace is one of them, takes in the children that
// others leave behind. It ends at SIGTERM or SIGINT.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// version is set by the linker.
var version = "devel"

func main() {
	show := flag.Bool("version", false, "print the version and end")
	flag.BoolVar(show, "v", false, "the same as --version")
	flag.Parse()
	if *show {
		fmt.Println(version)
		return
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD)
	reap()
	wait(signals)
}

// wait takes in children until a signal comes that ends the program.
func wait(signals <-chan os.Signal) {
	for sig := range signals {
		if sig != syscall.SIGCHLD {
			return
		}
		reap()
	}
}

// reap takes in every child that has ended: signals of several may be one.
func reap() {
	for {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return // ECHILD, or all others run
		}
	}
}
