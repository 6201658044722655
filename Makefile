# `make demo` and `make test` do all set-up themselves on a fresh machine: a virtual environment in .venv, the pinned
# versions of constraints.txt, this package in editable mode. A second call installs nothing.
#
#   make demo PYTHON=python3.12                                              another interpreter (3.11 or newer)
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo       torch without CUDA on Linux

PYTHON ?= python3
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
# Tests run in $(WORKERS) processes; with several threads in each they would fight for the cores.
ONE_THREAD := OMP_NUM_THREADS=1

.PHONY: help demo test test-all test-fast lint clean

help:
	@echo "make demo       train, erase and audit on handwritten digits; results in demo-run"
	@echo "make test       lint, types, import contracts, tests"
	@echo "make test-all   the same, with every pair of a method and a model"
	@echo "make test-fast  tests that are not marked slow"
	@echo "make lint       ruff, mypy, lint-imports"
	@echo "make clean      delete .venv, demo-run and caches"

demo: $(VENV)/.installed
	$(BIN)/erasediff demo --output_dir demo-run --overwrite

test: lint
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) -m "not wide"

test-all: lint
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS)

test-fast: $(VENV)/.installed-test
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) -m "not slow and not wide"

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# torch first: it is by far the largest, and a mistake about its build shows before anything else is fetched.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is missing or older than Python 3.11; use make PYTHON=python3.11"; exit 1; }
	$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	$(PIP) -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) -e ".[test]"
	touch $@

clean:
	rm -rf $(VENV) demo-run build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
