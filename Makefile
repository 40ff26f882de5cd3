# `make demo` and `make test` are the only two commands a fresh machine needs: Python 3.11+ and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LOID := $(BIN)/loid-infer

.PHONY: setup demo test lint bench soak clean

setup: $(READY)

# torch first and pinned, so that no other package's range can pull another build.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, $$($(PYTHON) --version) found: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	@echo "installing into $(VENV) (a few minutes the first time) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-input -c constraints.txt torch
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-input -c constraints.txt -e '.[cpu,optimum,dev,bench]'
	@touch $@

demo: setup
	@BIN=$(BIN) sh bench/demo.sh

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test: setup lint
	$(BIN)/python -m pytest -m 'not slow' -n 2 --dist worksteal

# The rivals' packages are only for this; a comparison without one of them says so.
bench: setup
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-input -c constraints.txt -e '.[rivals]' || true
	$(BIN)/python -m bench

soak: setup
	$(BIN)/python -m pytest -m slow

clean:
	rm -rf $(VENV) data exports/[!R]* cache/[!R]* reports build *.egg-info
