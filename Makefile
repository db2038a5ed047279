# Runink. `make help` lists the targets; every one works from a fresh clone.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export PATH := $(CURDIR)/build/bin:$(PATH)

# Versions of the tools that only developers need.
BUF := github.com/bufbuild/buf/cmd/buf@v1.75.0
PROTOC_GEN_GO := google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
PROTOC_GEN_GO_GRPC := google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.0
GRPC_GATEWAY := github.com/grpc-ecosystem/grpc-gateway/v2
GRPC_GATEWAY_VERSION := v2.32.0
GOFUMPT := mvdan.cc/gofumpt@v0.12.0
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.1.4

# Everything is compiled one way, without cgo and paths, as what ships is: what one target
# compiled, the others find in Go's cache.
export CGO_ENABLED := 0
export GOFLAGS := $(strip $(GOFLAGS) -trimpath)

# One static binary, the same bytes from the same source wherever it is built.
GOBUILD := CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -buildid="

.PHONY: help
help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Debian packages that building and testing need, beside Go, git, gcc and make.
PACKAGES := curl qemu-system-x86 iproute2 nftables e2fsprogs wireguard-tools \
  ovmf ipxe ipxe-qemu xorriso mtools grub-common grub-pc-bin grub-efi-amd64-bin \
  debootstrap bash-completion zsh fish jq

.PHONY: setup
setup: ## install what is missing (Debian packages, Go modules)
	tools/setup.sh $(PACKAGES)
	go mod download
	cd sdk && go mod download
	cd examples/flights && go mod download

.PHONY: build
build: ## build bin/runink, the engines of slices and the developers' programs
	@mkdir -p bin
	$(GOBUILD) -o bin/ ./cmd/...
	$(GOBUILD) -o bin/runink-image ./tools/image
	$(GOBUILD) -o bin/qemu-cluster ./tools/qemucluster
	$(GOBUILD) -o bin/testall ./tools/testall

.PHONY: image
image: build ## build kernel, initramfs and manifest into build/image
	bin/runink-image -binary bin/runink -engine bin/runink-engine -out build/image

.PHONY: man
man: build ## write the man pages into build/man, dated by the commit
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) bin/runink man build/man

.PHONY: metal
metal: build ## build the image for any machine, with drivers by device alias, into build/metal
	bin/runink-image -kind metal -binary bin/runink -engine bin/runink-engine -out build/metal

# For `make iso` and `make disk`: what the node is, as `runink token create -q` prints it. Without
# it the menu entry is edited at boot, or the node is told by another way (docs/boot.md).
WORDS ?=

.PHONY: iso
iso: metal ## build build/runink.iso: boots as CD and as disk, by BIOS and by UEFI
	bin/runink-image iso $(WORDS)

.PHONY: disk
disk: metal ## build build/runink-disk.img: a whole disk, with a partition for the node's state
	bin/runink-image disk $(WORDS)

NODES ?= 3

.PHONY: qemu-cluster
qemu-cluster: setup image ## boot NODES=3 appliance nodes in QEMU, run the example, leave the cluster up
	@exec bin/qemu-cluster up -nodes $(NODES)

.PHONY: qemu-down
qemu-down: ## end the cluster that qemu-cluster left up
	@test -x bin/qemu-cluster || $(GOBUILD) -o bin/qemu-cluster ./tools/qemucluster
	@exec bin/qemu-cluster down

# For `make dev`: ARGS=-once ends it after the example; `make dev ARGS=-help` lists the rest.
ARGS ?=

.PHONY: dev
dev: build ## server, agent, keeper and the example in one process tree on this host, until Ctrl-C
	@$(GOBUILD) -o build/bin/runink-dev ./tools/dev
	@exec build/bin/runink-dev $(ARGS)

# The peers of `make bench`, from Debian and from npm. Debian starts etcd, munge and Slurm as
# services when it installs them; the benchmarks start their own.
BENCH_PACKAGES := miller bubblewrap runc crun etcd-server slurmctld slurmd slurm-client munge
DUCKDB := @duckdb/node-api@1.5.6-r.1

.PHONY: bench-setup
bench-setup: ## install the peers that bench compares with
	tools/setup.sh $(BENCH_PACKAGES) $$(command -v node >/dev/null || echo nodejs) $$(command -v npm >/dev/null || echo npm)
	@mkdir -p build/bench/npm
	npm install --prefix build/bench/npm --no-save --no-audit --no-fund $(DUCKDB)

.PHONY: bench
bench: build ## measure against the peers; ARGS="-only rows,launch", ARGS=-quick
	@$(GOBUILD) -o build/bin/bench ./tools/bench
	@exec build/bin/bench $(ARGS)

.PHONY: test
test: may-test image metal ## run every test: unit, property, fuzz, in-VM, whole-cluster; as root
	@exec bin/testall

# Whoever may not is told now, not after minutes of building.
.PHONY: may-test
may-test:
	@mkdir -p bin
	@$(GOBUILD) -o bin/testall ./tools/testall
	@bin/testall -check

# With all tags every file is checked: none is built only without a tag.
ALLTAGS := -tags vm,cluster,bench

.PHONY: check
check: build/bin/gofumpt build/bin/staticcheck generated ## gofumpt, vet, staticcheck, import matrix, generated code, licences, known vulnerabilities
	@echo "== gofumpt"; out=$$(git ls-files '*.go' | grep -vE '\.pb(\.gw)?\.go$$' | xargs gofumpt -l); \
	  if [ -n "$$out" ]; then echo "not formatted:"; echo "$$out"; exit 1; fi
	@if git grep -n -E '^//go:build.*!' -- '*.go'; then echo "these are not checked with all tags"; exit 1; fi
	@echo "== vet"; go vet $(ALLTAGS) ./...
	@cd sdk && go vet ./...
	@cd examples/flights && go vet ./...
	@echo "== staticcheck"; staticcheck $(ALLTAGS) ./...
	@cd sdk && staticcheck ./...
	@echo "== import matrix"; go test -run TestImportMatrix ./tools/rooms
	@echo "== licences"; go run ./tools/licences
	@echo "== known vulnerabilities"; tools/vulncheck.sh $(GOVULNCHECK)

.PHONY: generated
generated: generate ## generate again and compare with what is committed
	@git diff --exit-code -- api || { echo "generated code differs: commit what 'make generate' wrote"; exit 1; }

.PHONY: generate
generate: build/bin/buf build/bin/protoc-gen-go build/bin/protoc-gen-go-grpc build/bin/protoc-gen-grpc-gateway build/bin/protoc-gen-openapiv2 ## write generated code again
	go run ./tools/protodeps build/protodeps
	buf lint
	buf generate
	go run ./tools/openapi build/openapi/runink.swagger.json api/runink/v1/openapi.json

build/bin/buf:
	@mkdir -p build/bin
	GOBIN=$(CURDIR)/build/bin go install $(BUF)
build/bin/protoc-gen-go:
	@mkdir -p build/bin
	GOBIN=$(CURDIR)/build/bin go install $(PROTOC_GEN_GO)
build/bin/protoc-gen-go-grpc:
	@mkdir -p build/bin
	GOBIN=$(CURDIR)/build/bin go install $(PROTOC_GEN_GO_GRPC)
build/bin/protoc-gen-grpc-gateway build/bin/protoc-gen-openapiv2:
	@mkdir -p build/bin
	GOBIN=$(CURDIR)/build/bin go install $(GRPC_GATEWAY)/$(notdir $@)@$(GRPC_GATEWAY_VERSION)
build/bin/gofumpt:
	@mkdir -p build/bin
	GOBIN=$(CURDIR)/build/bin go install $(GOFUMPT)
build/bin/staticcheck:
	@mkdir -p build/bin
	GOBIN=$(CURDIR)/build/bin go install $(STATICCHECK)
