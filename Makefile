# `make help` lists everything. Each target does its own set-up: Python >= 3.11 and make are enough.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := .tools/bin/uv
STAMP := $(VENV)/.installed
PROJECTS := . chaos $(wildcard services/*)
EDITABLES := $(foreach project,$(PROJECTS),-e ./$(project))

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format bench lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[1m%-10s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Install everything into .venv, from the lock file

demo: $(STAMP) ## Break a naive payment pipeline, and fail to break the hardened one
	$(BIN)/onceproof demo $(ARGS)

test: $(STAMP) ## Unit, conformance and integration tests, and a short demo
	$(BIN)/pytest --numprocesses 3 --dist worksteal $(ARGS)
	$(BIN)/onceproof demo --orders 60 --run-dir runs/test

lint: $(STAMP) ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## Format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## Consumer and relay against pgbench running the same SQL
	$(BIN)/python benchmarks/run.py $(ARGS)

lock: $(UV) ## Resolve the dependencies anew into requirements.lock
	$(UV) lock --upgrade
	$(UV) export --quiet --all-packages --all-extras --all-groups --no-emit-workspace \
		--no-header --output-file requirements.lock

clean: ## Remove the environment and caches; run folders stay
	rm -rf $(VENV) .tools .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

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
