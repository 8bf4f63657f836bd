.DEFAULT_GOAL := help
.PHONY: help setup demo demo-compare test test-all bench docs tables check

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.stamp

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP)  ## make .venv and install the package with its extras, at the tested versions

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "datastill: '$(PYTHON)' is missing or older than Python 3.11; run 'make setup PYTHON=python3.11' with one that is not." >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -e ".[vision,dev,docs]" -c constraints.txt
	@touch $(STAMP)

demo: $(STAMP)  ## distil scikit-learn's digits with INFER and write runs/demo/report.html (3 minutes)
	rm -rf runs/demo
	@# Threads that wait must not spin: on a busy machine that costs minutes.
	OMP_WAIT_POLICY=PASSIVE $(BIN)/datastill demo --out runs/demo

demo-compare: $(STAMP)  ## compare six methods on digits and write runs/demo-compare/report.html (5 minutes)
	OMP_WAIT_POLICY=PASSIVE $(BIN)/datastill compare digits --methods random,herding,kcenter,easy,infer,infer-dyn \
		--students 'convnet(width=32)' --steps 200 --out runs/demo-compare

test: $(STAMP)  ## run the tests but the slow ones (under 10 minutes on 2 cores)
	$(BIN)/python -m pytest -q -m "not slow" --durations=10

test-all: $(STAMP)  ## run every test
	$(BIN)/python -m pytest -q --durations=10

bench: $(STAMP)  ## measure the speed of each phase against the plain reference
	$(BIN)/python -m benchmarks

docs: $(STAMP)  ## build the pages into site/; a warning is an error
	@# Material advertises its successor on every build; the variable is its own way to stop that.
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

tables: $(STAMP)  ## rebuild the tables in docs/ from the measured rows in docs/results/
	$(BIN)/python -m docs.tables

check: $(STAMP)  ## format, lint, types and the arrows between modules: what a commit needs
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m ruff check
	$(BIN)/python -m mypy
	$(BIN)/lint-imports --no-logo
