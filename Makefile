# What this project can be asked to do; the work is in dev/.

.DEFAULT_GOAL := help
.PHONY: help up down demo status shell test check generate deny bench soak install clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' Makefile

up: ## from nothing to two running JAM instances on a local two-node cluster
	@dev/up

down: ## take the cluster down; nothing of it is left
	@dev/cluster/down

demo: ## off and on, a broken release, a revoked token: what the operator does, on the cluster of `make up`
	@dev/demo

status: ## is the cluster healthy, and what runs in it
	@dev/cluster/status

shell: ## a shell in which the cluster is reachable
	@dev/cluster/shell

test: ## every test on the real parts, with the packages and tools that they need
	@dev/prerequisites --install test cluster
	@dev/cluster/build
	@dev/test

check: ## format, lints, unit tests, each crate alone
	@dev/check

generate: ## write again what is generated from the sources
	@dev/generate

deny: ## licences, bans and sources of every crate against deny.toml (needs cargo-deny)
	@dev/deny

bench: ## what a request, a blob and a package cost, against the limits of docs/PERFORMANCE.md
	@dev/bench

soak: ## 20 minutes of mixed load on three servers of one database (JAM_SOAK_MINUTES, JAM_SOAK_BLOBS: see dev/soak)
	@dev/soak

install: ## slctl and kubectl-jam, for you: into ~/.cargo/bin
	@cargo install --locked --path . --bin slctl --bin kubectl-jam

clean: down ## the cluster, the cache and the build results
	@rm -rf "$${XDG_CACHE_HOME:-$$HOME/.cache}/jam-dev"
	@cargo clean
