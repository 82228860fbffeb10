# Thin over uv: every target makes sure that .venv holds exactly what requirements/dev.txt pins.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.synced
PORT ?= 8000
DATA ?=
RUN_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install run cluster cluster-down cluster-status kind kind-down test test-host test-cluster check bench format lock \
  docs clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(BIN)/uv:
	@echo "metacore: creating $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit("metacore: Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; set PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt

$(STAMP): $(BIN)/uv requirements/dev.txt pyproject.toml
	@echo "metacore: installing the pinned requirements"
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip sync --quiet --require-hashes requirements/dev.txt
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

install: $(STAMP) ## Make .venv hold the pinned requirements and this project

run: $(STAMP) ## Start Metacore on an embedded PostgreSQL (PORT=8000 DATA=folder)
	@exec $(BIN)/metacore dev --addons examples/addons --port $(PORT) $(if $(DATA),--data "$(DATA)") $(RUN_ARGS)

cluster: $(STAMP) ## Start a Kubernetes without Docker with this checkout on it, or bring it up to date (root, Linux)
	@$(BIN)/python -m tests.cluster up

cluster-down: $(STAMP) ## Take it away again, with all that it left
	@$(BIN)/python -m tests.cluster down

cluster-status: $(STAMP) ## Show its nodes and pods
	@$(BIN)/python -m tests.cluster status

kind: $(STAMP) ## The same with Docker, on kind
	@$(BIN)/python -m tests.cluster.kind up

kind-down: $(STAMP) ## Delete the kind cluster and its registry
	@$(BIN)/python -m tests.cluster.kind down

test: test-host test-cluster ## Run all tests

test-host: $(STAMP) ## Run the tests that need no cluster
	@$(BIN)/python -m pytest -n 2 --dist loadgroup --ignore=tests/cluster $(PYTEST_ARGS)

test-cluster: $(STAMP) ## Run the tests on a real cluster (root, Linux)
	@$(BIN)/python -m tests.cluster test $(PYTEST_ARGS)

check: $(STAMP) ## Lint, types, layers, pins
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

bench: $(STAMP) ## Measure the hot paths as ratios in one run
	@$(BIN)/python -m tests.bench $(BENCH_ARGS)

format: $(STAMP) ## Format the code
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format .

lock: $(BIN)/uv ## Pin requirements again
	@for name in uv dev image go node; do \
	  case $$name in \
	    uv|go|node) input=requirements/$$name.in; extra= ;; \
	    dev) input=pyproject.toml; extra="--all-extras --group dev" ;; \
	    image) input="pyproject.toml requirements/image.in"; extra="--extra operator" ;; \
	  esac; \
	  $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	    --no-emit-index-url $$extra $$input --output-file requirements/$$name.txt || exit 1; \
	done

docs: $(STAMP) ## Build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean: ## Remove what was built here (data and caches outside stay)
	rm -rf $(VENV) site dist .mypy_cache .ruff_cache .pytest_cache .hypothesis examples/addons/dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
