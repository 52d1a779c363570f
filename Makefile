# make demo: Table 1 and the figures of the paper, at demo scale, from nothing. make help: the rest.
# Paths are relative and quoted, so that the folder may have spaces in its name.

SHELL := bash
PYTHON ?= python3
CORES ?= $(shell n=$$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN); echo $$((n > 8 ? 8 : n)))

# What .venv is for: cuda (NVIDIA GPUs, here or where jobs run) or cpu. Empty: as .venv was made, else as this machine is.
FOR ?=

RESULTS := results/demo
PAGE := $(RESULTS)/report.html
REPORT := $(RESULTS)/snakemake-report.html
PUBLISHED := docs/published/demo

# envs/install.py fills one .venv with the pins of all steps, envs/*.txt; it does nothing where they are there already.
# What is in .venv comes first for every command and for the jobs that Snakemake starts; nothing else of Python's leaks in.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
unexport PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE
# Nothing is looked up on a model hub: the demo makes all it needs.
export HF_HUB_OFFLINE := 1
export HF_DATASETS_OFFLINE := 1

.PHONY: help demo demo-all table report test lint unit numbers install install-engines install-test clean-env

help:
	@echo 'make demo       make .venv, run the DAG of study demo, print Table 1 and where the report and figures are'
	@echo 'make demo-all   the same, then every other table and figure that the demo builds (hours)'
	@echo 'make test       make .venv with the test tools, then all checks and all tests'
	@echo 'make lint       the checks alone: ruff, pyright, import-linter, what the digest can follow, snakefmt, snakemake --lint, codespell'
	@echo 'make unit       the tests alone; choose with ARGS="-k mu"'
	@echo 'make numbers    the tests that draw or compare numbers, with other seeds, threads and instructions'
	@echo 'make install-engines  add vLLM and DeepSpeed to .venv, for studies that name them (1.3 GB more)'
	@echo 'make clean-env  remove .venv (results stay)'
	@echo 'FOR=cuda or FOR=cpu, with install or any other, makes .venv for NVIDIA GPUs or for processors'
	@echo 'PYTHON=python3.12 picks the Python that .venv is made of, CORES=4 the number of cores (here $(CORES))'

demo: install
	@echo '[demo] running the DAG of study demo on $(CORES) cores'
	@python -m snakemake --cores $(CORES) --config study=demo
	@$(MAKE) --no-print-directory report table

# Every table and figure in config/experiments, but for those whose files say why the demo does not build them.
demo-all: demo
	@echo '[demo] every table and figure'
	@python -m snakemake --cores $(CORES) --config study=demo -- everything

table:
	@python -m chord tabulate --show $(RESULTS)/table1.json --against $(PUBLISHED)/table1.json
	@echo '[demo] tables and figures: $(RESULTS)/'
	@echo '[demo] report:             $(PAGE)  (one file, opens offline)'
	@echo '[demo] `make demo-all` builds every table and figure: about 2.9 hours on one core, as `chord plan everything` estimates'

# Anew only when a table, a figure, a caption or the report's own page is newer than it.
report:
	@if [ ! -e $(REPORT) ] || [ -n "$$(find $(RESULTS)/*.json workflow/report -newer $(REPORT) ! -name ro-crate-metadata.json -print -quit)" ]; then \
		echo '[demo] writing the report of the DAG and the run times'; \
		python -m snakemake --cores 1 --config study=demo --report $(REPORT); \
	fi

install:
	@command -v $(PYTHON) > /dev/null || { echo 'found no $(PYTHON), expected Python 3.11 or newer'; exit 1; }
	@$(PYTHON) envs/install.py run $(FOR)

install-engines: install
	@$(PYTHON) envs/install.py engines $(FOR)

install-test: install
	@$(PYTHON) envs/install.py test $(FOR)

test: lint unit

lint: install-test
	@echo '[test] ruff'        && python -m ruff check . && python -m ruff format --check .
	@echo '[test] pyright'     && python -m pyright
	@echo '[test] the floors'  && lint-imports
	@echo '[test] the digest'  && python -m chord.provenance.unfollowed
	@echo '[test] snakefmt'    && snakefmt --check Snakefile workflow
	@echo '[test] snakemake'   && python -m snakemake --lint
	@echo '[test] codespell'   && codespell

# The models of the tests are so small that a second thread only costs. Tests of Slurm and of servers mostly wait, so
# twice as many processes as cores share the files.
unit: export OMP_NUM_THREADS := 1
unit: install-test
	@echo '[test] pytest' && python -m pytest --numprocesses $$((2 * $(CORES))) --no-loadscope-reorder $(ARGS)

# Once more what draws, or compares numbers whose last bits a processor may move: other seeds, two threads, and the
# instructions of a processor of 2008. A tolerance that only holds here fails there.
numbers: export OMP_NUM_THREADS := 2
numbers: export CHORD_TEST_SEED := 1
numbers: export ATEN_CPU_CAPABILITY := default
numbers: export MKL_ENABLE_INSTRUCTIONS := SSE4_2
numbers: export DNNL_MAX_CPU_ISA := SSE41
numbers: install-test
	@echo '[test] numbers, with other seeds, threads and instructions' && python -m pytest -q -m numbers --numprocesses $(CORES) $(ARGS)

clean-env:
	rm -rf .venv
