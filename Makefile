# Every command of this project. `make` alone lists them.

PYTHON ?= python3
BIN    := .venv/bin
STAMP  := .venv/.installed
BYTECODE := .venv/.bytecode
MEDIA  := .venv/.installed-media
COMPILED := runtime/.compiled
KERNELS := .venv/.kernels

# `make demo SECONDS=30` and nothing else sets it: shells have a variable of that name, and may have exported it.
DEMO_SECONDS := $(if $(filter command,$(origin SECONDS)),$(SECONDS))

# Tests run side by side: first most of them, the long ones at the beginning; then, two files at a time, those that wait
# for processes more than they use the processor: Ray's, and benchmarks.
JOBS    ?= 3
WAITING := tests/cluster tests/benchmarks

.PHONY: help setup setup-media system missing demo test check bench chaos soak compiled source clean

help:     ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(KERNELS) $(BYTECODE)  ## install everything, pinned, into .venv (the other commands do it when needed)

$(STAMP): pyproject.toml constraints.txt requirements-demo.txt scripts/make-venv.sh
	@PYTHON="$(PYTHON)" scripts/make-venv.sh
	@touch $@

# On all processors, which pip does not. Packages hold a few files for other Pythons: they stay as they are.
$(BYTECODE): $(STAMP)
	@$(BIN)/python -m compileall -qq -j 0 .venv/lib || true
	@touch $@

# The step of a model, where there is a C++ compiler. Installing has built it; this builds it again when it has changed.
$(KERNELS): $(STAMP) setup.py $(wildcard grf_core/kernels/*.h grf_core/kernels/*.cc) grf_core/kernels/library.py
	@$(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@

setup-media: $(MEDIA)  ## speech and video as well: `grf demo talk`, media sources of `grf connect` (the tests need it)

$(MEDIA): $(KERNELS) requirements-media.txt scripts/install-media.sh
	@scripts/install-media.sh
	@touch $@

system:   ## install the real servers that some tests use (Debian packages; as root or with sudo)
	@scripts/install-system.sh

missing:  ## say which of them are not installed, so that tests are skipped
	@scripts/install-system.sh --missing

demo: setup  ## replay a real recording through the whole runtime, live; SECONDS=30 ends it by itself
	@$(BIN)/grf demo $(if $(DEMO_SECONDS),--seconds $(DEMO_SECONDS))

test: source  ## check, then all tests
	@$(MAKE) --no-print-directory --jobs 2 setup check
	@$(MAKE) --no-print-directory --jobs 2 setup-media $(if $(filter true,$(CI)),system,missing)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(WAITING:%=--ignore %) --numprocesses $(JOBS) --dist worksteal
	@$(BIN)/python -m pytest $(WAITING) --numprocesses 2 --dist loadfile

check: $(KERNELS)  ## style and types
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy --strict grf_core runtime connectors benchmarks tests

bench: setup  ## every benchmark, full length; the last line of each is one JSON object
	@set -e; for file in $(wildcard benchmarks/[a-z]*.py); do echo "== $$file"; $(BIN)/python -m benchmarks.$$(basename $$file .py); done

chaos: setup  ## whatever may die dies under load, on several raylets with Redis: the long form of tests/cluster
	@$(BIN)/python -m pytest -m chaos --timeout 0
	@$(BIN)/python -m benchmarks.failover

soak: setup  ## the long forms of the tests
	@$(BIN)/python -m pytest -m soak --timeout 0

compiled: $(COMPILED)  ## compile the path of a segment (half a minute; needs a C compiler): half as many segments again

$(COMPILED): $(KERNELS) $(wildcard runtime/*.py runtime/*/*.py) setup.py scripts/mypyc.ini
	@GRF_COMPILED=1 $(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@

source:   ## remove what is compiled: the source runs again
	@find runtime -name '*.so' -delete
	@rm -f $(COMPILED)

clean: source  ## remove caches and build output (.venv stays: rm -r it to start from nothing)
	@rm -f grf_core/kernels/*.so $(KERNELS)
	@rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
