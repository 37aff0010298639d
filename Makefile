# The plugin, and everything to try and to test it. All it needs is Go, make and git; and a C compiler for what
# needs a Gitea server.

GO        ?= go
PLUGIN    := vault-plugin-secrets-apitoken
FUZZTIME  ?= 20s
TESTFLAGS ?=
SIMFLAGS  ?= -simulate.for=8760h

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build the plugin, the command apitoken, and the authorizer for gateways into bin/
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/ ./cmd/...

.PHONY: vault
vault: ## find a Vault server, or build the one that bootstrap/vault pins (5 minutes, once)
	@$(GO) run ./scripts/dev -binary

.PHONY: servers
servers: ## vault, and a Gitea server for the tests where there is a C compiler (5 minutes, once)
	@$(GO) run ./scripts/dev -binary -gitea

.PHONY: gateways
gateways: ## build Caddy and Traefik for the tests of apitoken-authz (10 minutes, once)
	@./bootstrap/gateways/build.sh

.PHONY: dev
dev: ## run a Vault server with the plugin and the console until Ctrl-C
	@$(GO) build -o bin/dev ./scripts/dev
	@exec bin/dev # go run would turn Ctrl-C into an error

.PHONY: demo
demo: ## show what the engine does, on a Vault server of its own
	@echo "Compiling; the first time its modules are downloaded."
	@$(GO) run ./scripts/dev -mount=false -then ./scripts/demo/upstream.sh sh -ec './scripts/demo/native.sh; ./scripts/demo/gateway.sh'

.PHONY: test
test: servers ## run all tests: with the race detector, and on a real Vault server
	@echo "Unit tests, with the race detector:"
	$(GO) test -short -race $(TESTFLAGS) ./...
	@echo "Simulation: the promises at crashes and races, with fresh seeds (2 minutes):"
	$(GO) test ./backend/simulation -count=1 -v -run 'TestSimulate$$|TestPrograms|TestScenario' -simulate.for=2m -simulate.workers=2
	$(GO) test ./backend/simulation -count=1 -v -run TestLibrary -simulate.for=30s
	@echo "Contract tests: what providers send, held to what the vendors publish:"
	$(GO) test -C backend/connector/contract $(TESTFLAGS) ./...
	@echo "Acceptance tests, on real Vault servers (about 4 minutes):"
	$(GO) test -parallel 6 -timeout 20m -count=1 $(TESTFLAGS) ./backend/acceptance

.PHONY: test-unit
test-unit: ## run the tests that need no server
	$(GO) test -short $(TESTFLAGS) ./...

.PHONY: simulate
simulate: ## hold the engine to its promises in a simulated world, with fresh seeds until one fails or Ctrl-C
	$(GO) test ./backend/simulation -count=1 -timeout 0 -run 'TestSimulate$$' -simulate.workers=2 $(SIMFLAGS)

.PHONY: bench
bench: ## measure the engine against a plugin that does nothing, and gateways under load (about 35 minutes)
	$(GO) test -run '^$$' -bench . ./backend/...
	$(GO) run ./scripts/bench $(BENCHFLAGS)

.PHONY: fuzz
fuzz: ## run each fuzz target for FUZZTIME
	@GO=$(GO) FUZZTIME=$(FUZZTIME) ./scripts/fuzz.sh

.PHONY: lint
lint: ## check the code (.golangci.yml), the prose (.vale.ini), and known vulnerabilities where their database is reachable
	@./scripts/lint.sh

.PHONY: prose
prose: ## list what the prose could do better: the warnings and suggestions of vale
	@$(GO) build -C bootstrap/tools -o ../../bin/ github.com/vale-cli/vale/v3/cmd/vale
	@bin/vale --no-exit README.md CHANGELOG.md docs cmd backend scripts

.PHONY: mutate
mutate: ## change the code one operator at a time, and list the changes that no test notices (hours; PACKAGES=token: minutes)
	@./scripts/mutate.sh $(PACKAGES)

.PHONY: clean
clean: ## delete what was built
	rm -rf bin
