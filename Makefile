# Everything that is done with this repository. As root, each target installs
# the Debian packages that it lacks, and nothing else.

GO       ?= go
FUZZTIME ?= 60s
# Everything that has a version takes it from here.
VERSION  ?= $(shell config/deploy/release/version)
BIN      ?= bin
DIST     ?= dist

LINKED      := github.com/natless/natless/cmd/internal/version.linked

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

# A checkout that belongs to somebody else has no version, and builds all the same.
export GOFLAGS := $(GOFLAGS) -buildvcs=false

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' Makefile

.PHONY: build
build: ## the programs, in bin/
	@tests/need go
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w -X $(LINKED)=$(VERSION:v%=%)" -o $(BIN)/ ./cmd/...

.PHONY: deb
deb: ## the Debian package, in dist/
	@tests/need go gzip
	@$(MAKE) --no-print-directory build >/dev/null
	@mkdir -p $(DIST)
	@rm -f $(DIST)/natless_*.deb
	@config/deploy/packages/build $(BIN) $(DIST) "$(VERSION)" $$($(GO) env GOARCH) deb

.PHONY: release
release: ## all of a release in DIST (dist/): programs, packages, image, chart, manifests, SBOMs, checksums
	@tests/need go gzip
	@config/deploy/release/build $(DIST) "$(VERSION)"

.PHONY: test-release
test-release: ## a release, made twice and held against its distributions, Helm, qemu and the version before: half an hour (root)
	@tests/need go gcc root gzip ip ping nft sysctl nsenter dpkg debootstrap rpm qemu-aarch64-static podman runc shellcheck
	@$(MAKE) --no-print-directory release DIST=.test-output/release
	NATLESS_REQUIRE=1 NATLESS_DIST=$(CURDIR)/.test-output/release $(GO) test -C tests/release -v -count=1 -timeout 90m ./...

# Two versions of the package, to upgrade from one to the other.
.PHONY: vagrant-build
vagrant-build: ## what vagrant up installs: packages, CNI plugins, the checks
	@tests/need go gzip
	@mkdir -p vagrant/build/cni
	@for v in 1 2; do \
		COMPRESSION=none $(MAKE) --no-print-directory deb VERSION=v0.0.$$v BIN=dist/vagrant$$v DIST=dist/vagrant$$v >/dev/null; \
		mv dist/vagrant$$v/natless_*.deb vagrant/build/natless-$$v.deb; \
	done
	@plugins=github.com/containernetworking/plugins/plugins; CGO_ENABLED=0 $(GO) build -C tests/tools -o $(CURDIR)/vagrant/build/cni/ \
		github.com/containernetworking/cni/cnitool $$plugins/main/ptp $$plugins/ipam/host-local
	@CGO_ENABLED=0 $(GO) build -o vagrant/build/ ./vagrant/probe
	@$(GO) build -o vagrant/build/checks ./vagrant

.PHONY: vagrant-test
vagrant-test: vagrant-build ## the end-to-end checks on three virtual machines: ten minutes and gigabytes
	@vagrant/test.sh

.PHONY: demo
demo: ## see it work, in a minute: real programs through real namespaces (root)
	@tests/need go root ip curl ping traceroute iperf3 sysctl nsenter
	@$(MAKE) --no-print-directory build >/dev/null
	@$(GO) build -o bin/demo ./tests/demo
	@exec bin/demo bin

# As root, a test that lacks something fails instead of being skipped.
.PHONY: test
test: ## make lint and all tests; LANES are those of tests/suite to run (all)
	@tests/need go gcc ip ethtool curl ping traceroute iperf3 sysctl nsenter nft dig unbound named sshd ssh scp podman runc busybox tshark capinfos prometheus firewalld ufw dbus-daemon chromium clang-14 llvm-strip-14 gzip dpkg man lintian systemd-analyze iptables-nft nfcapd nfacctd softflowd tcpdump ss tayga
	@GO=$(GO) tests/suite $(LANES)

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (60s)
	@tests/need go
	@git grep -oP '^func \KFuzz\w+' -- '*_test.go' | while IFS=: read -r file target; do \
		echo "$$target in $$(dirname $$file)"; \
		$(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x ./$$(dirname $$file) || exit 1; \
	done

# Where the target stops, its output names the seed and the episode to repeat.
PACKETS ?= 1000000000

.PHONY: differential
differential: ## PACKETS (1,000,000,000) packets by the translator and the slow reference
	@tests/need go
	@GODEBUG=asyncpreemptoff=1 $(GO) test -v -count=1 -timeout 0 -run '^TestDifferential$$' ./tests/conformance \
		-packets $(PACKETS) -seed $${SEED:-$$(date +%s)}

# As many as two processors translate in an hour: each packet is a system call.
PACKETS_BPF ?= 400000000

.PHONY: differential-bpf
differential-bpf: ## PACKETS_BPF (400,000,000) packets by the fast path's programs and the translator (root)
	@tests/need go root ip sysctl
	@NATLESS_REQUIRE=1 $(GO) test -v -count=1 -timeout 0 -run '^TestDifferential$$' ./netstack/fastpath \
		-packets $(PACKETS_BPF) -seed $${SEED:-$$(date +%s)}

.PHONY: differential-policy
differential-policy: ## 100,000 packets each way by policies and by nftables (root)
	@tests/need go root ip nft sysctl
	@NATLESS_REQUIRE=1 $(GO) test -v -count=1 -timeout 0 ./tests/policy -packets 100000 -seed $${SEED:-$$(date +%s)}

.PHONY: bench
bench: ## the figures: kernel forwarding, natless and peers in one sitting (root)
	@tests/need go root ip ping ethtool sysctl nsenter tayga
	$(GO) run ./tests/bench $(BENCH)
	$(GO) run ./tests/bench/relay $(RELAY)

.PHONY: bench-relay
bench-relay: ## what a packet takes on a relay: by the kernel, the fast path, and XDP in front of it (root)
	@tests/need go root ip ethtool sysctl nsenter
	$(GO) run ./tests/bench/relay $(RELAY)

# One sitting: a share of what the same path does without records is what they leave.
.PHONY: bench-flows
bench-flows: ## what flow records cost: TCP and small datagrams by both paths, with and without, in one sitting (root)
	@tests/need go root ip ping sysctl nsenter
	$(GO) run ./tests/bench -only tcp,udp -sizes 18 -skip "tayga,tun loop" -variant $$'flows=fast_path: off\nflows: {}' \
		-variant $$'fast flows=fast_path: required\nflows: {}' $(BENCH)

.PHONY: fates
fates: ## 300 random hosts, with the fast path and without: packets have the same fate (root)
	@tests/need go root ip ping sysctl nsenter nft tc
	NATLESS_REQUIRE=1 $(GO) test -v -count=1 -timeout 60m -run 'TestSameFate|TestFirewalls' ./tests/fastpath -hosts 300

.PHONY: scale
scale: ## a million mappings and a million workloads: lookup, edit, memory, load, reload under load (root)
	@tests/need go root ip curl ping sysctl nsenter nft podman runc busybox
	$(GO) test -run '^$$' -bench 'TranslateTo(4|6)/UDP/|TranslateShared|TranslateCE' ./translator
	$(GO) test -run '^$$' -bench 'Lookup|Edit|Build|Memory' -benchtime 300ms ./translator/mapping
	$(GO) test -run '^$$' -bench Million -benchtime 300ms ./netstack/internal/hugepages
	$(GO) test -run '^$$' -bench Policies -benchtime 300ms ./translator
	NATLESS_REQUIRE=1 $(GO) test -v -count=1 -run TestSwap ./tests/policy -networks 100000
	$(GO) test -run '^$$' -bench 'LoadMillion|LoadPolicies' ./config
	$(GO) test -v -count=1 -timeout 15m -run TestScale ./config/registry -workloads 1000000
	@mkdir -p .test-output; registry=$$(mktemp -u); trap "rm -f $$registry" EXIT; status=0; for path in off auto; do \
		NATLESS_FAST_PATH=$$path NATLESS_REQUIRE=1 $(GO) test -v -count=1 -timeout 30m -run 'TestScale|TestManyWorkloads' ./tests/e2e \
			-mappings 1000000 -workloads 1000000 -strict -registry $$registry -profiles $(CURDIR)/.test-output || status=1; \
	done; exit $$status
	NATLESS_REQUIRE=1 $(GO) test -v -count=1 -timeout 15m -run TestPodman ./tests/cni -containers 20

.PHONY: test-relays
test-relays: ## two relays between routers, announced by BIRD and by FRR 10, one killed, cut off, drained, under traffic (root)
	@tests/need go root ip nft bird birdc vtysh unshare mount iperf3 curl
	@NATLESS_REQUIRE=1 $(GO) test -v -count=1 ./tests/relays

.PHONY: overload
overload: ## what a neighbour gets beside 17 kinds of flood, one flooder and a thousand workloads, on both paths (root)
	@tests/need go root ip sysctl nsenter
	@status=0; for path in off auto; do for crowd in 0 1000; do \
		echo "fast path $$path, $$crowd other workloads"; \
		NATLESS_FAST_PATH=$$path NATLESS_REQUIRE=1 $(GO) test -v -count=1 -timeout 60m -run TestMeasure ./tests/overload -figures -rounds 5 \
			-crowd $$crowd -shares $(SHARES) -strict || status=1; \
	done; done; exit $$status

# How many shares of the processors make overload asks for: 1024 are what another program has.
SHARES ?= 8192

.PHONY: soak
soak: ## two hours of workloads that come and go, kills, reloads and flaps, and 10 GB over a bad link (root)
	@tests/need go root ip sysctl nsenter
	NATLESS_REQUIRE=1 $(GO) test -v -count=1 -timeout 6h ./tests/soak -for 2h -workloads 10000
	NATLESS_REQUIRE=1 $(GO) test -v -count=1 -timeout 1h -run TestTransferThroughDisorder ./tests/e2e -disordered 1024
	$(GO) test -v -race -timeout 6h -run TestTransfer ./netstack -transfer 10240

KILLS ?= 400

.PHONY: crash
crash: ## natlessd killed KILLS (400) times at any moment, under churn, and under traffic, and judged (root)
	@tests/need go root ip nft sysctl nsenter
	NATLESS_REQUIRE=1 $(GO) test -v -count=1 -timeout 6h -run TestKilledUnderLoad ./tests/fastpath -kills $(KILLS)
	NATLESS_REQUIRE=1 $(GO) test -v -count=1 -timeout 6h -run 'TestCrash|TestJudge' ./tests/crash -kills $(KILLS)

.PHONY: test-containerd
test-containerd: ## pods of a real containerd, through the Kubernetes CRI (root)
	@tests/need go gcc root ip curl nft nsenter sysctl containerd ctr runc
	@$(MAKE) --no-print-directory build >/dev/null
	NATLESS_REQUIRE=1 NATLESS_BIN=$(CURDIR)/bin $(GO) test -C tests/cri -v -count=1 -timeout 15m ./...

# A module of its own: natlessd links nothing of what it needs.
.PHONY: fleet
fleet: ## natless-fleet, in bin/
	@tests/need go
	CGO_ENABLED=0 $(GO) build -C cmd/natless-fleet -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o $(abspath $(BIN))/ .

.PHONY: test-fleet
test-fleet: ## natless-fleet with a real etcd: minutes to compile
	@tests/need go
	cd cmd/natless-fleet && test -z "$$(gofmt -l .)" && $(GO) vet ./...
	NATLESS_REQUIRE=1 $(GO) test -C cmd/natless-fleet -count=1 -timeout 15m ./...

# The seed is told; with it, SEED=… repeats a run.
STEPS ?= 1000000

.PHONY: simulate-fleet
simulate-fleet: ## STEPS (1,000,000) steps of a fleet with all that can happen to it: no address has two owners
	@tests/need go
	$(GO) test -C cmd/natless-fleet -v -count=1 -timeout 0 -run '^TestSimulation$$' ./fleet -steps $(STEPS) -seed $${SEED:-0}

# Packages of Debian's kernels, half a gigabyte, and some ten minutes for each. KERNELS are
# the series to run (5.10 6.1 6.12 6.18).
.PHONY: test-kernels
test-kernels: ## IPv4 inside and the fast path on other kernels, in emulated machines (root)
	@tests/need go root qemu-system-x86_64 busybox ip tc nft curl ping nsenter sysctl traceroute ethtool unxz
	@GO=$(GO) tests/kernels/run $(KERNELS)
# What it builds is kept there for the next time. A node has an overlay over /var.
CLUSTER ?= $(HOME)/.cache/natless-cluster

.PHONY: test-cluster
test-cluster: ## natless in a real Kubernetes cluster: building it takes an hour once, the checks half of one (root)
	@tests/need go root ip nsenter unshare sysctl openssl dnsmasq runc ip6tables-nft ipset
	@GO=$(GO) WORK=$(CLUSTER) tests/cluster/lab/build
	NATLESS_REQUIRE=1 $(GO) test -v -count=1 -timeout 90m ./tests/cluster -cluster $(CLUSTER) $(CHECKS)

HOSTS  ?= 10000
RELAYS ?= 100

# With a real kube-apiserver as well where NATLESS_KUBE names a folder that has it; with a
# real natlessd, as root, the relay's cold start.
.PHONY: scale-fleet
scale-fleet: ## HOSTS (10,000) agents with a hundred workloads each and the real controller; RELAYS (100) that follow it
	@tests/need go
	@status=0; run() { echo "== $$1, at load $$(cut -d' ' -f1 /proc/loadavg)"; shift; \
		$(GO) test -C cmd/natless-fleet -v -count=1 -timeout 30m "$$@" || status=1; }; \
	run "a controller, and $(HOSTS) hosts of a hundred workloads and more" -run '^TestScale$$' ./fleet -hosts $(HOSTS); \
	run "$(RELAYS) relays of 1000 blocks, etcd" -run '^TestScaleRelays$$' ./etcd -relays $(RELAYS) -blocks 1000 -changes 200; \
	run "20 relays of 16,384 blocks, etcd" -run '^TestScaleRelays$$' ./etcd -relays 20 -blocks 16384 -changes 200; \
	if [ -n "$${NATLESS_KUBE-}" ]; then \
		run "$(RELAYS) relays of 1000 blocks, kube-apiserver" -run '^TestScaleRelays$$' ./kube -relays $(RELAYS) -blocks 1000 -changes 200; \
	else echo "== kube-apiserver: left out, since NATLESS_KUBE names no folder that has it"; fi; \
	if [ "$$(id -u)" = 0 ]; then tests/need ip nft sysctl nsenter && \
		run "a real relay of 16,384 blocks that begins cold" -run '^TestRelayAgent$$' ./endtoend -blocks 16384; \
	else echo "== a real relay: left out, since it takes root"; fi; exit $$status

AWAY ?= 10m

.PHONY: away-fleet
away-fleet: ## etcd away for AWAY (10m), and kube-apiserver where NATLESS_KUBE names it, under traffic and churn (root)
	@tests/need go root ip nft sysctl nsenter
	NATLESS_REQUIRE=1 $(GO) test -C cmd/natless-fleet -v -count=1 -timeout 0 -run '^TestAway' ./endtoend -away $(AWAY)

.PHONY: lint
lint: ## gofmt, vet, staticcheck
	@tests/need go
	@GO=$(GO) tests/lint

.PHONY: generate
generate: ## the kernel's fast path, out of its C source
	@tests/need go clang-14 llvm-strip-14
	$(GO) generate ./...

.PHONY: clean
clean: ## remove what was built
	rm -rf bin dist vagrant/build .test-output
