# `make demo` and `make test` are the only two commands a fresh machine needs: Python 3.11+ and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LOID := $(BIN)/loid-infer

# Environments of their own over that one, for what cannot stand beside today's transformers.
OLD := .venv-4.57
RIVALS := .venv-rivals
# One with nothing of ours, for what takes no numpy 2.
RECTOOLS := .venv-rectools

.PHONY: setup demo test test-4.57 lint bench soak clean

setup: $(READY)

# torch first and pinned, so that no other package's range can pull another build.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, $$($(PYTHON) --version) found: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	@echo "installing into $(VENV) (a few minutes the first time) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-input -c constraints.txt torch
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-input -c constraints.txt -e '.[cpu,dev,bench]'
	@touch $@

# Ray and a server that speaks S3: 300 MB that only the tests need.
$(VENV)/.ready-cluster: $(READY)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-input -c constraints.txt -e '.[cluster-dev]'
	@touch $@

demo: setup
	@BIN=$(BIN) sh bench/demo.sh

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test: setup $(VENV)/.ready-cluster lint
	$(BIN)/python -m pytest -m 'not slow' -n 2 --dist worksteal
	$(MAKE) test-4.57

# transformers 4.57 reads and exports every family too, and optimum opens an export.
test-4.57: $(OLD)/.ready
	$(OLD)/bin/python -m pytest -n 2 --dist worksteal tests/graphs/test_bases.py tests/graphs/test_families.py \
		tests/graphs/test_faults.py tests/graphs/test_gguf.py tests/graphs/test_graph.py tests/graphs/test_optimum.py \
		tests/graphs/test_parity.py

# The rivals' packages are only for this; a comparison without one of them says so.
bench: $(RIVALS)/.ready
	$(BIN)/python -m bench

$(OLD)/.ready: $(READY) tests/transformers-4.57.txt
	@sh tests/overlay.sh $(VENV) $(OLD) tests/transformers-4.57.txt
	@touch $@

$(RIVALS)/.ready: $(READY) bench/rivals/requirements.txt
	@sh tests/overlay.sh $(VENV) $(RIVALS) bench/rivals/requirements.txt || true
	@touch $@

$(RECTOOLS)/.ready: bench/rivals/rectools.txt
	$(PYTHON) -m venv $(RECTOOLS)
	$(RECTOOLS)/bin/python -m pip install -qq --disable-pip-version-check --no-input -r bench/rivals/rectools.txt
	@touch $@

soak: setup $(VENV)/.ready-cluster
	$(BIN)/python -m pytest -m slow

clean:
	rm -rf $(VENV) $(OLD) $(RIVALS) $(RECTOOLS) data exports/[!R]* cache/[!R]* reports build *.egg-info
