# make demo | test | lint | bench | gate | sanitize: each sets up .venv first, from constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint bench gate sanitize sanitize-address sanitize-thread browser format clean

demo: $(STAMP)
	$(BIN)/python tools/demo.py --out demo

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python tools/bench_prepare.py
	$(BIN)/python tools/bench_ops.py

gate: $(STAMP)
	$(BIN)/python cuda_ext/compile_gate.py

# TESTS=tests/cuda_ext/test_every_operator.py: only those
sanitize: sanitize-address sanitize-thread

sanitize-address sanitize-thread: sanitize-%: $(STAMP)
	cuda_ext/sanitize.sh $* $(TESTS)

# Headless Chromium opens the report in a test; without it that test is skipped.
browser:
	@command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; } || \
	  echo "no Chromium: the test that opens a report in it will be skipped"

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(STAMP): pyproject.toml constraints.txt setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "fusion3d needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python cuda_ext/build.py || echo "going on without compiled operators: everything works, slower"
	touch $@

clean:
	rm -rf $(VENV) demo runs
