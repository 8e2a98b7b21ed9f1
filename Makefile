# `make help` lists everything. Each target does its own set-up: Python >= 3.11 and make are enough.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := .tools/bin/uv
STAMP := $(VENV)/.installed
PROJECTS := . chaos k8s-operator $(wildcard services/*)
EDITABLES := $(foreach project,$(PROJECTS),-e ./$(project))

# The cluster targets: what they install, and which installation `logs` and `trace` look at.
VARIANT ?= hardened
BROKER ?= sqs
RELAY ?= polling
NAMESPACE ?= onceproof
export VARIANT BROKER RELAY NAMESPACE

.DEFAULT_GOAL := help
# `make kind-up e2e` is one after the other, with -j too.
.NOTPARALLEL:
.PHONY: help setup demo test debezium lint format bench bench-test docs images chart kind-up metrics e2e campaign logs trace kind-down lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  \033[1m%-10s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Install everything into .venv, from the lock file

demo: $(STAMP) ## Break a naive payment pipeline, and fail to break the hardened one
	$(BIN)/onceproof demo $(ARGS)

test: $(STAMP) ## Unit, conformance and integration tests, and a short demo
	@$(BIN)/python -m onceproof_chaos.embedded.kafka_jars
	$(BIN)/pytest --numprocesses 3 --dist worksteal $(ARGS)
	$(BIN)/onceproof demo --orders 60 --run-dir runs/test

debezium: $(STAMP) ## Fetch Debezium Server (0.8 GB) for `--relay cdc`; without it the tests of that are skipped
	@$(BIN)/python -m onceproof_chaos.embedded.debezium

lint: $(STAMP) ## ruff, mypy --strict, import-linter, zizmor; actionlint and shellcheck where they are installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/zizmor --offline --no-progress --quiet .github
	@for tool in actionlint shellcheck; do command -v $$tool > /dev/null || echo "$$tool is not installed: skipped"; done
	@! command -v actionlint > /dev/null || actionlint
	@! command -v shellcheck > /dev/null || shellcheck --external-sources .ci/run deploy/*/*.sh

format: $(STAMP) ## Format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## Against the ceilings and against peers; ARGS=--help tells, ARGS=--list lists
	$(BIN)/python benchmarks/run.py $(ARGS)

bench-test: $(STAMP) ## Build each of the benchmark's peers and have it do the work once (downloads 0.8 GB)
	ONCEPROOF_TEST_PEERS=1 $(BIN)/pytest tests/integration/test_benchmark_peers.py $(ARGS)

docs: $(STAMP) ## Build the docs site into site/; a link that leads nowhere is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

images: ## Build the container images, unless they exist with this content
	deploy/images/build.sh

chart: $(STAMP) ## Lint and validate the chart (by the cluster too, if it is up), test its alerts
	$(BIN)/python deploy/helm/readme.py --check
	$(BIN)/python deploy/helm/check_rules.py
	$(BIN)/python deploy/helm/check.py $$(! kind get clusters 2> /dev/null | grep -qx onceproof || echo --context kind-onceproof)

kind-up: ## Cluster, images and chart in kind: VARIANT=hardened|naive|hardened-<fix>, BROKER=sqs|kafka, RELAY=polling|cdc; ARGS go to helm
	deploy/kind/up.sh $(ARGS)

metrics: ## Metrics server for the cluster, which the autoscaler's test under load needs
	deploy/kind/metrics.sh

e2e: $(STAMP) ## Every crash point in the cluster, from both ledgers and the traces: VARIANT=..., BROKER=..., RELAY=...; ARGS go to pytest
	deploy/kind/e2e.sh $(ARGS)

campaign: $(STAMP) ## A long campaign in the cluster: VARIANT=..., ORDERS=1000, KILLS=10 at each crash point
	deploy/kind/campaign.sh

logs: ## What the pods print: NAMESPACE=...; ARGS=-f follows
	deploy/kind/logs.sh $(ARGS)

trace: $(STAMP) ## The story of one order in the cluster: ORDER=..., NAMESPACE=...
	deploy/kind/trace.sh "$(ORDER)" $(ARGS)

kind-down: ## Delete the cluster
	deploy/kind/down.sh

lock: $(UV) ## Resolve the dependencies anew into requirements.lock
	$(UV) lock --upgrade
	$(UV) export --quiet --all-packages --all-extras --all-groups --no-emit-workspace \
		--no-header --output-file requirements.lock
	$(UV) pip compile --quiet --upgrade --universal --python-version 3.13 --generate-hashes --no-header \
		--output-file deploy/images/build.lock deploy/images/build.in

clean: ## Remove the environment, caches and the docs site; run folders stay
	rm -rf $(VENV) .tools site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python >= 3.11 is needed; set PYTHON=/path/to/python3.11 or newer" >&2; exit 1; }
	$(PYTHON) -m venv .tools
	.tools/bin/python -m pip install --quiet --disable-pip-version-check uv

$(STAMP): requirements.lock pyproject.toml $(foreach project,$(PROJECTS),$(project)/pyproject.toml) | $(UV)
	$(UV) venv --quiet --allow-existing --python $$($(PYTHON) -c 'import sys; print(sys.executable)') $(VENV)
	$(UV) pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps $(EDITABLES)
	@touch $@
