# make demo | test | lint | types | check | bench | wheel | clean | distclean
#
# Everything runs in a virtual environment of this checkout, which is made when it is first needed and brought up
# to date when pyproject.toml or constraints.txt change. Variables: PYTHON=python3.12, ORT=gpu (the onnxruntime
# build), VENV=folder, PYTEST_ARGS="-k render", DEMO_ARGS="--out folder", BENCH=benchmarks/startup.py.

PYTHON ?= python3
ORT ?= cpu
VENV ?= .venv$(if $(filter-out cpu,$(ORT)),-$(ORT))
PYTEST_ARGS ?= -n auto --maxprocesses 4 --dist loadfile
DEMO_ARGS ?=
BENCH ?= $(sort $(wildcard benchmarks/*.py))

BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
INSTALL = $(BIN)/python -m pip install --constraint constraints.txt

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test lint format types check bench wheel clean distclean

help:
	@echo 'make demo       explain two photos with a trained network; results in onnxvis-demo/'
	@echo 'make test       run the tests'
	@echo 'make lint       ruff: rules and format       make format     let ruff rewrite the files'
	@echo 'make types      mypy --strict on the package'
	@echo 'make check      lint, types and test'
	@echo 'make bench      run the benchmarks'
	@echo 'make wheel      build dist/*.whl'
	@echo 'make clean      remove what was built        make distclean  and the environment'

demo: $(VENV)/.installed-demo
	$(BIN)/onnxvis demo $(DEMO_ARGS)

test: $(VENV)/.installed-test
	OMP_NUM_THREADS="$${OMP_NUM_THREADS:-1}" $(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# kernels/ and converters/ are installed inside the package; mypy sees the same tree through links.
types: $(VENV)/.installed-dev
	@rm -rf .types && mkdir -p .types/onnxvis
	@ln -s "$(CURDIR)"/onnxvis/* .types/onnxvis/
	@ln -s "$(CURDIR)/kernels" "$(CURDIR)/converters" .types/onnxvis/
	MYPYPATH=.types $(BIN)/mypy -p onnxvis

check: lint types test

bench: $(VENV)/.installed-test
	@for file in $(BENCH); do echo "== $$file"; $(BIN)/python "$$file" || exit 1; done

wheel: $(VENV)/.installed-dev
	$(BIN)/python -m build

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "onnxvis needs Python 3.11 or newer, but PYTHON=$(PYTHON) is: $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Name a newer one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv "$(VENV)" || { \
	  echo "$(PYTHON) cannot make a virtual environment (on Debian and Ubuntu: install python3-venv)." >&2; exit 1; }
	@touch $@

# Editable, so that what runs is what stands here; the plain commands of README.md do the same by hand.
$(VENV)/.installed-%: $(VENV)/.made pyproject.toml constraints.txt
	$(INSTALL) --editable '.[$(ORT),$*]'
	@touch $@

clean:
	rm -rf build dist *.egg-info .types .pytest_cache .mypy_cache .ruff_cache .hypothesis onnxvis-demo onnxvis-out
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf "$(VENV)"
