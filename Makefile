# The house's commands. `make` alone lists them.
#
# What is built goes to CARGO_TARGET_DIR where that is set, else to ./target. Nothing here writes
# anywhere else but to the caches named below and to the cluster's own directory.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help run test test-kubernetes soak figures verify fix prepare

export TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
CARGO ?= cargo
# Where `make run` keeps its journals between two runs.
DIR ?= $(CURDIR)/data
# Flags for `chaos cluster`, as in: make run ARGS="--nodes 5 --base-port 7400"
ARGS ?=

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: prepare ## build, start three nodes and an adapter on this machine, stop them with Ctrl-C
	@echo "==> building journal-server, journal, etcd-adapter and chaos (release; the first time takes some minutes)"
	@$(CARGO) build --release --locked --bins
	@echo "==> starting a cluster of three nodes, and an adapter on port 2379; its data stays in $(DIR)"
	@exec "$(TARGET)/release/chaos" cluster --adapters 1 --dir "$(DIR)" $(ARGS)

test: prepare ## everything that a change must pass: format, lints, tests, cluster tests
	@.ci/test

test-kubernetes: prepare ## Kubernetes' own control plane on adapters (needs Go; the first time it is built, for minutes)
	@tests-peers/kubernetes/build >/dev/null
	@$(CARGO) build --workspace --locked --bins --test kubernetes
	@exec $(CARGO) test --workspace --locked --test kubernetes -- --ignored --test-threads=1 --nocapture

soak: prepare ## the same claims, for hours: crash cases, simulation seeds, cluster faults
	@.ci/soak

figures: prepare ## run every benchmark that has a target, against etcd on the same disk
	@echo "==> building (release)"
	@$(CARGO) build --release --locked --bins
	@tests-peers/etcd/build
	@exec "$(TARGET)/release/chaos" figures $(ARGS)

verify: ## what CI checks of the text: format, lints, documentation; writes nothing to the tree
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked

fix: ## what `make verify` complains of, as far as tools can mend it
	$(CARGO) fmt --all
	$(CARGO) clippy --workspace --all-targets --locked --fix --allow-dirty --allow-staged
	$(CARGO) fmt --all

prepare:
	@.ci/prepare
