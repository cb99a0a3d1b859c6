# Holdfast. "make help" lists what there is.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VERSION  ?= 0.1.0
BIN      := bin
TOOLS    := $(BIN)/tools
# Warnings of a Go linker about the size of debug data are of no use to users.
LDFLAGS  := -s -w -X main.version=$(VERSION)
BINARIES := holdfast holdfast-hub holdfast-agent holdfast-cluster holdfast-node disk-monitor node-prepare \
	local-volume-provisioner local-volume-cleaner lvm-csi-driver holdfast-docker-volume remediation-controller storage-scheduler pause
# Everything is built the same way, so that tests and binaries share what is
# compiled: static, and with the same bytes wherever the tree lies.
export CGO_ENABLED := 0
export GOFLAGS     := $(GOFLAGS) -trimpath -buildvcs=false
export HOLDFAST_CLUSTER_BINARY := $(CURDIR)/$(BIN)/holdfast-cluster
# Tests of the embedded control plane share two cores with it.
TESTFLAGS ?=

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 20

.PHONY: build
build: ## Build every binary into bin/ (the first build takes about 7 minutes on 2 cores)
	@mkdir -p $(BIN)
	@echo "building $(words $(BINARIES)) binaries into $(BIN)/ (the Kubernetes control plane is one of them; the first build takes a while)"
	go build -ldflags '$(LDFLAGS)' -o $(BIN)/ $(addprefix ./cmd/,$(BINARIES))

.PHONY: test
test: build ## Run the tests that need no root and no cluster of yours
	@# Without -count=1 the go command notes each file that a test opens: half a gigabyte for nodeprep, minutes to read.
	go test -timeout 30m -count=1 $(TESTFLAGS) ./...

.PHONY: test-root
test-root: build ## Run the tests that need root: loop devices, mounts, the kernel log
	@test "$$(id -u)" = 0 || { echo "make test-root needs root: run it as root or with sudo"; exit 1; }
	go test -timeout 30m $(TESTFLAGS) -count=1 -tags root ./e2e/... ./monitor/... ./provisioners/...
	@# By itself: it overwrites the kernel's log, which the others read.
	go test -timeout 10m $(TESTFLAGS) -count=1 -tags storm -run '^TestKernelLogStorm$$' -v ./monitor/kernel

.PHONY: salt-fidelity
SALT_VENV    ?= $(HOME)/.cache/holdfast/salt-3008.4
SALT_VERSION ?= 3008.4
salt-fidelity: ## Record the Salt cases anew and compare; FORMULA=DIR [MINION=ID GRAINS=FILE] compares a formula tree
	[ -x $(SALT_VENV)/bin/salt-call ] || { python3 -m venv $(SALT_VENV) && $(SALT_VENV)/bin/pip install --quiet salt==$(SALT_VERSION); }
ifdef FORMULA
	go build -o $(BIN)/holdfast ./cmd/holdfast
	salt/testdata/fidelity/formula.sh $(SALT_VENV)/bin/python $(BIN)/holdfast $(FORMULA) $(or $(MINION),minion) $(GRAINS)
else
	$(SALT_VENV)/bin/python salt/testdata/fidelity/record.py
	HOLDFAST_SALT_PYTHON= go test -count=1 -v -run 'SameAsSalt|NoName' ./salt
endif

.PHONY: images
images: build ## Write the images of the addons, the agent and the hub to bin/images
	go run ./internal/build/images/write --bin-dir $(BIN) --tag v$(VERSION)

# The kubelet of the Kubernetes version that everything else here is built with.
.PHONY: kubelet
kubelet: $(BIN)/kubelet ## Build the kubelet into bin/ (for the lab)
$(BIN)/kubelet: go.mod
	@mkdir -p $(BIN)
	go build -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$$(go list -m -f '{{.Version}}' k8s.io/kubernetes)" -o $@ k8s.io/kubernetes/cmd/kubelet

.PHONY: lab-parts
lab-parts: build kubelet images
	go build -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/holdfast-lab

.PHONY: lab
lab: lab-parts ## Run the suite on virtual machines with real kubelets and failing disks (docs/lab.md)
	go test $(TESTFLAGS) -tags lab -count=1 -timeout 60m ./e2e/lab/...
	go test $(TESTFLAGS) -tags lab -count=1 -run Dashboards ./monitor
	go test -run TestLab $(TESTFLAGS) -tags lab -count=1 -timeout 60m -v ./e2e/suites/lab

.PHONY: lab-volumes
lab-volumes: lab-parts ## Run the suite of volumes on such machines: node preparation, LVM, Docker, arrays, encryption
	go test -c -tags lab -o $(BIN)/lvm.test ./provisioners/lvm
	go test -run TestVolumes $(TESTFLAGS) -tags lab -count=1 -timeout 60m -v ./e2e/suites/lab

# Kubernetes' own storage suite is a module of its own; its version is that of go.mod.
.PHONY: lab-external
lab-external: lab-parts ## Run Kubernetes' own storage suite against the LVM driver on such machines; FOCUS=REGEXP for a part of it
	go test -C e2e/external -vet=off -ldflags '$(LDFLAGS)' -c -o $(CURDIR)/$(BIN)/external-storage.test .
	go build -C e2e/external -ldflags '$(LDFLAGS)' -o $(CURDIR)/$(BIN)/ k8s.io/kubernetes/test/images/agnhost k8s.io/kubernetes/cmd/kubectl
	go run ./internal/build/images/write --bin-dir $(BIN) --stand-ins --layout external-images
	HOLDFAST_EXTERNAL_FOCUS='$(FOCUS)' go test -run TestExternal $(TESTFLAGS) -tags lab -count=1 -timeout 180m -v ./e2e/suites/lab

# The programs of others are modules of their own. What is built from them stays for the next time.
INTEROP_DIR ?= $(HOME)/.cache/holdfast/interop
.PHONY: interop
interop: build ## Run beside others' own programs: Flux and Argo CD on a published branch, Kubernetes' CSI sidecars beside the LVM driver
	@mkdir -p $(INTEROP_DIR)
	for of in flux argocd sidecars; do go build -C e2e/interop/$$of -ldflags '-s -w' -o $(INTEROP_DIR)/ tool; done
	HOLDFAST_INTEROP_DIR=$(INTEROP_DIR) go test $(TESTFLAGS) -tags interop -run 'TestFlux|TestArgoCD|TestSidecar' -count=1 -timeout 40m -v ./e2e/suites/interop ./provisioners/lvm

.PHONY: lab-up
lab-up: lab-parts ## Start such a lab for people, and leave it running
	$(BIN)/holdfast-lab up --bin-dir $(BIN) --log-dir $(BIN)/lab-logs/up

.PHONY: lab-down
lab-down: ## End it, and remove what killed ones left behind
	@test -x $(BIN)/holdfast-lab || go build -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/holdfast-lab
	$(BIN)/holdfast-lab down

.PHONY: demo
demo: build ## Run the main job on this machine: three clusters, git push, a disk that fails
	$(BIN)/holdfast demo --bin-dir $(BIN)

.PHONY: bench
bench: build ## Measure, and print lines BENCH name=… value=… unit=…
	$(BIN)/holdfast demo --bin-dir $(BIN) --bench

.PHONY: bench-monitor
bench-monitor: ## Measure the disk monitor: patterns, storms, SMART sweeps, an idle node with 60 disks (3 minutes)
	go test $(TESTFLAGS) -tags bench -run '^TestBench' -skip Idle -count=1 -timeout 20m -v ./monitor
	go test $(TESTFLAGS) -tags bench -run TestBenchIdle -count=1 -timeout 20m -v ./monitor # alone: what others leave behind is no memory of an idle node

.PHONY: bench-local
bench-local: build ## Measure local volumes: the LVM driver, its memory with 50,000 claims, and all of bench-scheduler (about 30 minutes)
	go test $(TESTFLAGS) -tags bench -run '^TestBench' -count=1 -timeout 60m -v ./provisioners/lvm
	$(MAKE) bench-scheduler

.PHONY: bench-scheduler
bench-scheduler: build ## Measure the scheduler: a burst of 1,000 pods, and pods/s with 5,000 nodes and 50,000 volumes beside stock (about 15 minutes)
	go test $(TESTFLAGS) -tags bench -run '^TestBench' -count=1 -timeout 60m -v ./scheduler

.PHONY: bench-gitops
bench-gitops: build ## Measure GitOps: rendering, pushes to 25 real control planes, an agent with 1,000 objects (about an hour; HOLDFAST_BENCH_SHORT=1: a few minutes)
	@[ -x $(SALT_VENV)/bin/salt-call ] || echo "# no salt-call in $(SALT_VENV): make salt-fidelity installs it"
	@HOLDFAST_SALT_CALL="$$(ls $(SALT_VENV)/bin/salt-call 2>/dev/null || true)" HOLDFAST_BIN_DIR=$(CURDIR)/$(BIN) \
		go test $(TESTFLAGS) -tags bench -run '^TestBench' -count=1 -timeout 150m -v ./gitops/render ./e2e/fleet

.PHONY: generate
generate: $(TOOLS)/controller-gen ## Write generated files: deep copies, CRDs, dashboards, node-problem-detector's rules
	$(TOOLS)/controller-gen object paths=./api/...
	$(TOOLS)/controller-gen crd paths=./api/... output:crd:dir=salt/states/crds/files
	@mkdir -p $(BIN)
	go run ./internal/build/dashboards/write addons/disk-monitor/dashboards
	go run ./cmd/disk-monitor patterns -o npd > $(BIN)/kernel-disks.json
	mv $(BIN)/kernel-disks.json addons/disk-monitor/node-problem-detector/kernel-disks.json

.PHONY: check-uncommitted
check-uncommitted: generate ## Fail when generated files, go.mod or formatting differ from what is committed
	go mod tidy
	gofmt -l -w $$(git ls-files '*.go')
	@test -z "$$(git status --porcelain)" || { git status --short; git diff; echo "make generate, go mod tidy or gofmt changed files: commit them"; exit 1; }

.PHONY: lint
lint: $(TOOLS)/golangci-lint ## Run the linters
	$(TOOLS)/golangci-lint run ./...

$(TOOLS)/controller-gen: internal/build/tools/go.mod
	@mkdir -p $(TOOLS)
	go build -C internal/build/tools -o $(abspath $(TOOLS))/ sigs.k8s.io/controller-tools/cmd/controller-gen

$(TOOLS)/golangci-lint: internal/build/tools/go.mod
	@mkdir -p $(TOOLS)
	@echo "building golangci-lint (the first build takes about 4 minutes)"
	go build -C internal/build/tools -o $(abspath $(TOOLS))/ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

.PHONY: clean
clean: ## Remove what was built
	rm -rf $(BIN)
