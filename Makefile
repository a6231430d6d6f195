# Every target sets up what it needs. VENV=... puts the environment elsewhere.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PORT ?= 5000

.DEFAULT_GOAL := help
.PHONY: demo test test-all test-long test-cluster test-gpu lint bench bench-gpu ui clean help

help: ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/:/' | column -t -s ':'

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

lint: $(READY) ## ruff, format, mypy, and which room may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(READY) ## everything fast, and the integration tests
	$(BIN)/python -m pytest -m 'not slow and not long and not gpu'

test-all: $(READY) ## what is slow, too; as root also a cluster on three hosts
	$(BIN)/python -m pytest -m 'not long and not gpu'

test-long: $(READY) ## what takes many minutes: README line by line, a dress rehearsal, jobs on three hosts whose parts go away
	$(BIN)/python -m pytest -m long -rs

test-cluster: $(READY) ## a cluster on three hosts of this machine, from ray up to ray down; needs root, and installs what it lacks
	@if [ $$(id -u) = 0 ]; then bash tests/cluster/install.sh; fi
	$(BIN)/python -m pytest tests/cluster/test_hosts.py -rs

test-gpu: $(READY) ## what only a GPU shows; without one each test is skipped and says so
	$(BIN)/python -m pytest tests/gpu -m gpu -rs

demo: $(READY) ## sample -> weights -> embed -> train -> evaluate on this machine
	$(BIN)/python jobs/demo.py --config jobs/configs/sample.yaml --config jobs/configs/general.yaml

bench: $(READY) ## speed and memory as ratios, to a table and runs/bench.json
	$(BIN)/python tests/benchmarks/run.py

bench-gpu: $(READY) ## figures of this machine's GPU, to a table and runs/bench-gpu.json
	$(BIN)/python tests/gpu/bench.py

ui: $(READY) ## MLflow on 127.0.0.1 (PORT=5000), and the addresses of the pages that compare runs
	@$(BIN)/python -m rdd.tracking.ui --port $(PORT)

clean: ## remove the environment, caches, and what the demo wrote
	rm -rf $(VENV) data/sample data/features/sample data/weights runs/sample runs/sample-evaluated .pytest_cache .mypy_cache .ruff_cache *.egg-info
