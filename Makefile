# Every command a user or a developer needs. `make` alone prints this help.
.DEFAULT_GOAL := help
.PHONY: help demo test check lint airflow bench-checks bench-collect bench-documents bench-rating bench-window lock clean
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# uv installs the locked environment; a machine without it gets it through pip, into .uv/ only.
UV_VERSION := 0.13.9
# A company's own certificate authority is in the system's store; pip looks there, uv is told to.
export UV_SYSTEM_CERTS := true
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)

help: ## print this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'
	@echo
	@echo "  The first command sets up $(VENV)/ from requirements.lock; nothing else is needed than Python 3.11+."

demo: $(READY) ## bill three nights of sample usage end to end and print where to look
	@$(BIN)/billing demo

test: $(READY) ## run every test
	@$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

check: lint test ## everything that must be green: lint and test

lint: $(READY) ## ruff, mypy --strict, import-linter, sqlfluff
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/sqlfluff lint --disable-progress-bar sql

airflow: $(READY) ## start Airflow standalone with the DAGs and print where to log in
	@$(BIN)/python -m pipeline.airflow_plugin.standalone

bench-checks: $(READY) ## measure the checks of 5 million events (some minutes), write docs/benchmarks.md
	@$(BIN)/python -m benchmarks.checks --render

bench-collect: $(READY) ## measure collect beside DuckDB and Polars (half an hour, 10 GB in /tmp), write docs/benchmarks.md
	@$(BIN)/python -m benchmarks.collect --render

bench-rating: $(READY) ## measure both raters on 4 million rows of usage (some minutes), write docs/benchmarks.md
	@$(BIN)/python -m benchmarks.rating --render

bench-window: $(READY) ## measure a window beside DuckDB, Polars and chDB (half an hour, 25 GB in /tmp), write docs/benchmarks.md
	@$(BIN)/python -m benchmarks.window --render

bench-documents: $(READY) ## measure how fast invoices become pages and PDFs (some minutes, 5 GB in /tmp), write docs/benchmarks.md
	@$(BIN)/python -m benchmarks.documents --render

lock: .uv/bin/uv ## resolve requirements.lock again from pyproject.toml
	@.uv/bin/uv pip compile --universal --generate-hashes --all-extras --upgrade --quiet --no-emit-index-url --no-header \
		pyproject.toml --output-file requirements.lock

clean: ## remove the environment and everything generated
	rm -rf $(VENV) .uv .airflow .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.uv/bin/uv:
	@$(PYTHON) -m venv .uv
	@.uv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

# The stamp is written last, so an interrupted installation is done again.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 15) else \
		f"Python 3.11 to 3.14 is needed, {v.major}.{v.minor} was found; try: make PYTHON=python3.12")'
	@echo "setting up $(VENV) from requirements.lock (once, about a minute)"
	@[ -x "$(UV)" ] || $(MAKE) --no-print-directory .uv/bin/uv
	@$(UV) venv --quiet --allow-existing --no-python-downloads --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV)
	@$(UV) pip sync --quiet --require-hashes --compile-bytecode --python $(BIN)/python requirements.lock
	@$(UV) pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python --editable .
	@$(BIN)/python -m pipeline.adapters.block_kernels
	@touch $(READY)
