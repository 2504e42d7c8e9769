# Two commands are all a newcomer needs: `make demo` and `make test`. Each does the set-up it needs.
# No root, no services; everything lands in .venv (VENV=... to put it elsewhere, PYTHON=... to choose one).

PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
# Test files run side by side in so many processes.
WORKERS ?= 2
# slither and halmos: apart from ours, because slither wants an older web3.
TOOLS  ?= .tools/contracts

BIN   := $(VENV)/bin
PIP   := $(BIN)/pip --disable-pip-version-check -qq
TORCH := $(shell grep '^torch==' constraints.txt)
VISION := $(shell grep '^torchvision==' constraints.txt)

# Stamps: set-up runs once, and again when what it depends on has changed.
USER_STAMP := $(VENV)/.installed
DEV_STAMP  := $(VENV)/.installed-dev
TOOLS_STAMP := $(TOOLS)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo test chaos lint contracts-check clean

help:  ## Show what can be made.
	@echo "Gemel: twins that learn together. Usage: make TARGET"
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14 | sed 's/^/  /'

setup: $(USER_STAMP)  ## Create the virtual environment with the tested versions.

setup-dev: $(DEV_STAMP)  ## The same, with what lint and tests need.

demo: $(USER_STAMP)  ## Run the demo plant: ARGS="--rounds 3 --seed 1" are handed on.
	@$(BIN)/gemel demo $(ARGS)

test: lint  ## Lint, types, import rules, then all tests. ARGS are handed to pytest.
	@echo "==> pytest"
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

chaos: $(DEV_STAMP)  ## Kill services in the middle of rounds; minutes, so not part of `make test`.
	@$(BIN)/python -m pytest tests/chaos $(ARGS)

lint: $(DEV_STAMP)  ## Lint, types and import rules only.
	@echo "==> ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "==> mypy"
	@$(BIN)/mypy
	@echo "==> import rules"
	@$(BIN)/lint-imports

contracts-check: $(TOOLS_STAMP)  ## Look for known flaws in the contracts (slither) and prove the gate (halmos).
	@echo "==> slither and halmos"
	@cd contracts && PATH="$(abspath $(TOOLS))/bin:$$PATH" npm run --silent analyse

clean:  ## Remove the virtual environment, caches and the demo's state.
	rm -rf $(VENV) $(TOOLS) demo-state build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './contracts/node_modules/*' -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "Gemel needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo missing); say which to use: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "This Python cannot create virtual environments; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "==> creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

# torch goes first, alone and pinned: then pip takes a CPU build where one is at hand (PIP_FIND_LINKS,
# PIP_EXTRA_INDEX_URL), while a range ends in gigabytes of CUDA packages (docs/decisions/0004-torch-is-pinned.md).
$(USER_STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@echo "==> installing torch (about 200 MB; minutes on a slow line)"
	@$(PIP) install $(TORCH) -c constraints.txt
	@echo "==> installing gemel"
	@$(PIP) install -e . -c constraints.txt
	@touch $@

# torchvision's own dependency would be resolved against its torch build; --no-deps keeps the one above.
$(DEV_STAMP): $(USER_STAMP)
	@echo "==> installing what lint and tests need"
	@$(PIP) install -e '.[dev,drift]' -c constraints.txt
	@$(PIP) install --no-deps $(VISION)
	@touch $@

$(TOOLS_STAMP): contracts/requirements-check.txt
	@echo "==> installing slither and halmos"
	@$(PYTHON) -m venv $(TOOLS)
	@$(TOOLS)/bin/pip --disable-pip-version-check -qq install -r $<
	@touch $@
