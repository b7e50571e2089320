# Everything runs in .venv, which `make env` makes from the pins in constraints.txt.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
CORES ?= 4
READY := $(VENV)/ready

.PHONY: help env probe report reference docs test test-unit test-gpu lint format bench check clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: $(READY) ## the environment, in .venv

# Byte code is compiled here, on all cores: importing everything takes half the time from then on.
# Packages also carry sources for other versions of Python; that those do not compile is no fault (pip says nothing either).
# torch is pinned in pyproject.toml, so that a local CPU build serves where there is one.
$(READY): pyproject.toml constraints.txt
	@echo "Installing the pinned packages into $(VENV): one to three minutes."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt pip
	$(BIN)/pip install --quiet --no-compile -c constraints.txt -e '.[dev]'
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib scripts || true
	touch $(READY)

probe: $(READY) ## the main job: model, simulated logs, and a tested probe in results/probes/trust_lr_l22
	$(BIN)/snakemake --cores $(CORES) results/probes/trust_lr_l22

check: $(READY) ## what the logs hold and what each concept would get, without a model
	$(BIN)/probeline check

report: $(READY) ## what the targets name on one page, results/report.html; and Snakemake's own report, report.html
	$(BIN)/snakemake --cores $(CORES) report
	$(BIN)/snakemake --cores $(CORES) --report report.html

reference: $(READY) ## the page of all rules, and the tables of keys and columns, as the code is now
	$(BIN)/python docs/rules.py > docs/rules.md.new
	mv docs/rules.md.new docs/rules.md
	$(BIN)/python docs/generated.py

# -E: what is read from the code is read anew.
docs: $(READY) ## the documentation as a site: docs/_build/html/index.html
	$(BIN)/sphinx-build -q -W --keep-going -E docs docs/_build/html

# Folders with long files are first, as in testpaths: nothing waits for one alone in the end. One thread for each of two
# workers on two cores: more would wait for each other, at twice the processor time; three workers are no faster.
test: $(READY) ## all tests but the slow ones, on two cores
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test-unit: $(READY) ## the fast tests of the library
	$(BIN)/pytest -q tests/unit

test-gpu: $(READY) ## the tests that need a CUDA device (skipped without one)
	$(BIN)/pytest -q -m gpu

lint: $(READY) ## format, lint and types: ruff, mypy, snakefmt, snakemake --lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint

format: $(READY) ## rewrite the sources in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/snakefmt Snakefile rules

# The libraries that we are compared with never enter .venv. The project itself is installed beside them, so
# that all contenders run on the same torch and transformers. The folder hides itself from git and ruff.
BENCH := .venv-bench

$(BENCH)/ready: pyproject.toml tests/bench/constraints.txt
	@echo "Installing the libraries that we are compared with into $(BENCH)."
	$(PYTHON) -m venv $(BENCH)
	echo '*' > $(BENCH)/.gitignore
	$(BENCH)/bin/pip install --quiet --disable-pip-version-check --no-compile -c tests/bench/constraints.txt pip
	$(BENCH)/bin/pip install --quiet --no-compile -c tests/bench/constraints.txt -e . nnsight transformer-lens probelab
	touch $@

bench: $(READY) $(BENCH)/ready ## our figures beside the alternatives', in one run, into docs/benchmark-*.md
	$(BIN)/snakemake --cores $(CORES) --quiet all -- data/models/smollm2-135m/manifest.json
	$(BENCH)/bin/python -m tests.bench.bench_extraction --save docs/benchmark-extraction.md
	$(BIN)/python -m tests.bench.bench_watch
	$(BIN)/python -m tests.bench.bench_streaming --folder data
	$(BIN)/python -m tests.bench.bench_sweep --save docs/benchmark-sweep.md
	$(BIN)/python -m tests.bench.bench_lineage --save docs/benchmark-lineage.md

# What Snakemake knows of the models stays with them.
clean: ## remove what runs have made; logs in data/raw, models and the environment stay
	rm -rf results/* data/processed data/simulated logs benchmarks report.html .probeline
	find .snakemake -mindepth 1 -maxdepth 1 ! -name metadata ! -name incomplete -exec rm -rf {} + 2>/dev/null || true
