# `make` alone lists the targets. Everything happens in .venv; nothing outside this folder is changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup run test test-slow check audit fix bench clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: $(VENV)/.dev ## install the service with everything that development needs

run: $(VENV)/.runtime ## install the service and serve on http://127.0.0.1:8000 (options: ARGS="--port 9000")
	$(BIN)/asr-service serve --host 127.0.0.1 --port 8000 $(ARGS)

test: $(VENV)/.dev ## run the tests (options: ARGS="-k name")
	$(BIN)/python -m pytest $(ARGS)

test-slow: $(VENV)/.dev ## run the slow tests
	$(BIN)/python -m pytest -m slow $(ARGS)

check: $(VENV)/.dev ## formatting, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

audit: | $(VENV)/bin/python ## ask advisory databases about all pinned dependencies; says so when none can be reached
	$(BIN)/python .ci/audit.py

fix: $(VENV)/.dev ## format, and repair what lint can repair
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.bench ## measure throughput (options: ARGS="--rounds 5"); other benchmarks: python -m benchmarks.NAME
	$(BIN)/python -m benchmarks.peers setup faster-whisper
	$(BIN)/python -m benchmarks.throughput $(ARGS)

clean: ## remove the environment and all caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' \
		|| { echo "Python's venv module is needed (on Debian: apt-get install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# `make run` needs this much only.
$(VENV)/.runtime: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable '.[ui]'
	@touch $@

# pytest-audioeval is wanted for its recordings alone; one of its own requirements has to be compiled, hence --no-deps.
$(VENV)/.dev: $(VENV)/.runtime
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps pytest-audioeval
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(PIP) --editable '.[bench]'
	@touch $@
