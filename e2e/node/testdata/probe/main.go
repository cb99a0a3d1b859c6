// Command probe is what the tests run as a container: it tells over HTTP what
// it was started with.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

func main() {
	listen := flag.String("listen", "", "address to listen on")
	exit := flag.Int("exit", -1, "exit at once with this code")
	write := flag.String("write", "", "write the arguments to this file first")
	ignore := flag.Bool("ignore-term", false, "do not end on SIGTERM")
	host := flag.String("host-root", "", "shown by /args")
	flag.Parse()
	fmt.Printf("probe started with %q\n", os.Args[1:])
	if *write != "" {
		if err := os.WriteFile(*write, []byte(fmt.Sprint(os.Args[1:])), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	if *exit >= 0 {
		fmt.Fprintf(os.Stderr, "ends with code %d\n", *exit)
		os.Exit(*exit)
	}
	if *ignore {
		signal.Ignore(syscall.SIGTERM)
	}
	mux := http.NewServeMux()
	unready := false
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		if unready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("/unready", func(http.ResponseWriter, *http.Request) { unready = true })
	mux.HandleFunc("/ready", func(http.ResponseWriter, *http.Request) { unready = false })
	mux.HandleFunc("/info", func(w http.ResponseWriter, _ *http.Request) {
		dir, _ := os.Getwd()
		_ = json.NewEncoder(w).Encode(map[string]any{
			"args": os.Args[1:], "env": os.Environ(), "dir": dir, "uid": os.Getuid(), "gid": os.Getgid(), "hostRoot": *host, "pid": os.Getpid(),
		})
	})
	mux.HandleFunc("/read", func(w http.ResponseWriter, r *http.Request) {
		data, err := os.ReadFile(r.FormValue("path"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_, _ = w.Write(data)
	})
	mux.HandleFunc("/whoami", func(w http.ResponseWriter, r *http.Request) {
		who, err := whoami(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode(who)
	})
	mux.HandleFunc("/exit", func(_ http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.FormValue("code"))
		os.Exit(code)
	})
	srv := &http.Server{Addr: *listen, Handler: mux, ReadHeaderTimeout: time.Second}
	fmt.Fprintln(os.Stderr, srv.ListenAndServe())
	os.Exit(1)
}

// whoami asks the API server who the pod's service account is.
func whoami(ctx context.Context) (authenticationv1.UserInfo, error) {
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(clientcmd.NewDefaultClientConfigLoadingRules(), nil).ClientConfig()
	if err != nil {
		return authenticationv1.UserInfo{}, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return authenticationv1.UserInfo{}, err
	}
	review, err := client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return authenticationv1.UserInfo{}, err
	}
	return review.Status.UserInfo, nil
}
