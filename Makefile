# `make` sets up, reproduces everything and prints what came of it; each step is skipped when nothing changed.
VENV := .venv
BIN := $(abspath $(VENV))/bin
STAMP := $(VENV)/.installed
PYTHON ?= $(shell command -v python3.11 || command -v python3)
export PATH := $(BIN):$(PATH)

.DEFAULT_GOAL := repro
.PHONY: repro set-up check results publish ablate test clean

repro: $(STAMP)
	dvc repro
	oddsmith results

set-up: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON): Python must be 3.11 or newer; set PYTHON=..." >&2; exit 2; }
	$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

# every data set's files, labels and split, and about what the run will take; writes nothing
check: $(STAMP)
	oddsmith check

results: $(STAMP)
	oddsmith results

# the training sets as Hub data sets; a dry run unless publish.enabled is true
publish: $(STAMP)
	dvc repro publish

# every cell of ablate.yaml, then one table of them all in reports/ablation.json, .csv and plots; see docs/ablations.md
ablate: $(STAMP)
	python -m pipelines.ablate run

test: $(STAMP)
	ruff check .
	OMP_NUM_THREADS=1 pytest -q -n 2 --dist loadfile --no-loadscope-reorder

# what a run made, and what it needs to resume; the environment and DVC's cache stay
clean:
	rm -rf artifacts reports .work dvc_plots
