# Thin wrappers. dvc.yaml owns the graph; this file sets up .venv and calls it.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3.11
VENV ?= .venv
ATLAS ?=
MODEL ?=
CELLMODEL ?=
COMPUTE ?=
SET ?=
RECOMPUTED ?=
AGAINST ?=
FILE ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# DVC and the stages find the tools of $(VENV) first, and nothing reports home.
export PATH := $(abspath $(BIN)):$(PATH)
export DVC_NO_ANALYTICS := 1
# Its locks and caches stay in the repository: elsewhere DVC keeps them where all users may write.
export DVC_SITE_CACHE_DIR ?= $(CURDIR)/.dvc/tmp/site
export PYTHONHASHSEED := 0
# Stages are many processes: what they import is compiled once, not in each.
unexport PYTHONDONTWRITEBYTECODE
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help
help: ## Show this help
	@echo "usage: make GOAL [ATLAS=demo|published|published-full|published-obs|census|local] [MODEL=pythia-mini|pythia-410m-deduped|...] [CELLMODEL=cell-mini|none|...] [COMPUTE=local|dask|...] [SET='KEY=VALUE ...']"
	@echo
	@sed -nE 's/^([a-z-]+):.*## (.*)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

.PHONY: setup
setup: $(STAMP) ## Make .venv from the pinned requirements, if it is missing or stale

ifeq ($(VENV),.venv)
$(STAMP): requirements.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { \
	  echo "error: $(PYTHON) not found; this project needs Python 3.11. Install it, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
	  echo "error: $(PYTHON) is $$($(PYTHON) --version); this project needs Python 3.11. Name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@[ ! -L .venv ] || { echo "error: .venv is a link, and what it points to would be emptied. Remove the link and run make again" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	@# Compiled on all processors, as pip does on one; some packages carry files of another Python, and tests that nobody runs.
	$(BIN)/python -m pip install --quiet --no-compile --requirement requirements.txt
	@$(BIN)/python -m compileall -qq -j 0 -x '/tests?/' .venv/lib || true
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
else
# One that was made elsewhere, as in the Docker image, is taken as it is where its pins are these.
.PHONY: $(STAMP)
$(STAMP):
	@cmp -s requirements.txt $(VENV)/requirements.txt || { \
	  echo "error: $(VENV) was not made from this requirements.txt; build the image again, or take .venv: make VENV=.venv" >&2; exit 1; }
endif

# Brackets and quotes of SET are for compose, not for the shell.
export SET
COMPOSE = python -m stages.base.compose $(if $(ATLAS),--atlas $(ATLAS)) $(if $(MODEL),--model $(MODEL)) $(if $(CELLMODEL),--cellmodel $(CELLMODEL)) $(if $(COMPUTE),--compute $(COMPUTE))
# Another processor would train other weights: they are kept, and trained again if their settings or code changed.
REPRO = python -m stages.base.repro --weights

.PHONY: reproduce
reproduce: setup compose ## Rebuild what changed, from raw files to the paper
	$(REPRO)

.PHONY: describe
describe: setup ## Look into a table of cells and print the settings that it needs (FILE=...)
	@python -m stages.inputs.describe $(if $(FILE),"$(FILE)",--help)

.PHONY: cells
cells: setup ## Cells alone: no model is trained or read, and the paper speaks of cells (ATLAS=local)
	@$(COMPOSE) --alone cells $(if $(SET),--set "$$SET")
	python -m stages.base.repro cells_alone

.PHONY: heads
heads: setup ## Heads alone: no atlas is read, and the paper speaks of heads (MODEL=...)
	@$(COMPOSE) --alone heads $(if $(SET),--set "$$SET")
	$(REPRO) heads_alone

.PHONY: forest
forest: setup ## Many datasets: every tissue of each compared, and all pooled in one figure (ATLAS=census)
	@$(COMPOSE) $(if $(SET),--set "$$SET")
	python -m stages.base.repro forest

.PHONY: train
train: setup ## Train the demo's models and autoencoders of the last commit again; are they the same, byte for byte?
	python -m stages.audit.verification --only trained
	python -m stages.audit.verification --only cell_trained
	python -m stages.audit.verification --only autoencoders

.PHONY: seeds
seeds: setup ## Train the demo's models from further seeds and measure them; goes on where it stopped
	python -m stages.audit.trainings

.PHONY: compose
compose: setup ## Compose params.yaml from conf/ (ATLAS=..., SET=...), if it does not follow from it
	@$(COMPOSE) $(if $(SET),--set "$$SET")

.PHONY: test
test: setup ## Run the tests, one real run of the demo among them
	pytest -n auto --dist loadfile --no-loadscope-reorder --ignore=tests/routes --ignore=tests/faults

.PHONY: routes
routes: setup ## Take the other ways through the graph: atlases and models of one's own, the tutorials
	pytest -n auto --dist loadfile tests/routes

.PHONY: faults
faults: setup ## Kill, fill up, delete and disturb a run of the demo, and see it end as it should
	pytest -n auto --maxprocesses 2 tests/faults

.PHONY: verify
verify: setup ## Recompute the last commit and compare number by number (RECOMPUTED=. compares what is here)
	python -m stages.audit.verification $(if $(RECOMPUTED),--recomputed "$(RECOMPUTED)") $(if $(AGAINST),--against "$(AGAINST)")

# DVC leaves empty folders of what is not pushed, and would take them for changed ones.
NO_EMPTY_FOLDERS := find data models -type d -empty -delete

.PHONY: pull
pull: setup ## Fetch the tables, figures and the paper that were computed before
	dvc pull --allow-missing
	@$(NO_EMPTY_FOLDERS)
	@python -m stages.audit.fsck --outputs

.PHONY: paper
paper: setup compose ## Render the paper and make what changed before it (SET=render.renderer=quarto: by Quarto)
	@[ -e reports/_output/paper.html -a -e reports/_output/paper.pdf ] || $(MAKE) --no-print-directory pull
	@$(NO_EMPTY_FOLDERS)
	@# What has not changed and is not here, such as raw files after a pull, is not made again.
	python -m stages.base.repro --allow-missing render

.PHONY: lint
lint: setup ## Check style and types
	ruff check .
	ruff format --check .
	mypy

.PHONY: bench
bench: setup ## Measure obs of a large atlas against loading it (8 GB of disk), and ways to ablate heads and pairs
	python -m benchmarks.obs_of_a_large_atlas
	python -m benchmarks.ablation_routes --threads 1
	python -m benchmarks.pairs --threads 1
	python -m benchmarks.control_variate --threads 1

.PHONY: bench-gpu
bench-gpu: setup ## Measure heads, pairs and features on the GPUs here, 8 minutes at most; goes on where it stopped
	python -m benchmarks.gpu

.PHONY: clean
clean: ## Remove what make made here, but not the downloads and not DVC's cache
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis data/interim reports/_output
