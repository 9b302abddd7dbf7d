# What a person does with this repository; "make help" lists it.
# Scripts in hack/ do the work, and can be called by themselves.
SHELL := /bin/bash
.DEFAULT_GOAL := help

export NBDEXPORT_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/nbdexport
# etcd and kube-apiserver for the controller's tests.
export KUBEBUILDER_ASSETS ?= $(NBDEXPORT_CACHE)/bin
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
IMAGE ?= localhost/nbdexport:dev
FUZZTIME ?= 30s
EXPORTS ?= 100,300,1000
SECONDS ?= 600

.PHONY: help
help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build the binaries into bin/.
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/ ./cmd/...

.PHONY: generate
generate: ## Write what is generated: deep copies, CRD, RBAC, the chart's copies, docs/api.md.
	hack/generate.sh

.PHONY: test
test: ## Everything: unit, controller, interop and end-to-end tests. Needs root.
	hack/test.sh all

.PHONY: test-unit
test-unit: ## The quick part of the tests, for people without root.
	hack/test.sh unit

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME (30s).
	hack/fuzz.sh $(FUZZTIME)

.PHONY: bench-scale
bench-scale: ## What EXPORTS (100,300,1000) cost; SECONDS (600) of them in a steady state.
	mkdir -p dist
	go run -C test/scale . -exports $(EXPORTS) -steady $(SECONDS) -json $(CURDIR)/dist/scale.json

.PHONY: lint
lint: ## Look for what compilers don't: golangci-lint with .golangci.yml.
	hack/lint.sh

.PHONY: demo
demo: ## The main job on a real cluster of one machine. CLUSTER=current uses yours.
	hack/demo.sh

.PHONY: demo-down
demo-down: ## Take away everything that the demo made.
	hack/demo-down.sh

.PHONY: image
image: ## Build the container image without a container engine.
	hack/image.sh

.PHONY: docker-build
docker-build: ## Build the container image IMAGE with docker.
	docker build --build-arg VERSION=$(VERSION) -t $(IMAGE) .

.PHONY: docker-push
docker-push: ## Build IMAGE for amd64 and arm64 with docker's buildx, and push it.
	docker buildx build --platform linux/amd64,linux/arm64 --build-arg VERSION=$(VERSION) -t $(IMAGE) --push .

.PHONY: build-installer
build-installer: ## Write the installation with IMAGE as one file, dist/install.yaml.
	IMAGE=$(IMAGE) hack/installer.sh

.PHONY: chart
chart: ## Check the Helm chart, and pack it into dist/.
	hack/helm.sh >/dev/null
	go test -timeout 10m ./charts
	hack/helm.sh package charts/nbdexport --destination dist

.PHONY: sbom
sbom: build ## Write what is linked into the binaries, as CycloneDX, into dist/.
	mkdir -p dist
	set -e; for c in nbdserver manager; do go run -C hack/sbom . $(CURDIR)/bin/$$c $(VERSION) >dist/$$c.cdx.json; done

.PHONY: clean
clean: ## Remove what was built here; the cache stays in NBDEXPORT_CACHE.
	rm -rf bin dist
