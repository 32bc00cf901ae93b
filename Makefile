# make run      the pipeline on the embedded default, ending in a table
# make test     all tests, in any checkout: they look at no parameters, locks, metrics or results of yours
# make check    for maintainers: whether dvc.lock is in step with code and parameters, and results/ with their own
# make real     the full run on real photographs, published to results/cats_vs_dogs; NAME=imagenette: another preset;
#               FOLDS="0 1 2 3 4" SEEDS="0 1": these student seeds on each of these folds of the data, too
# make studies  alpha, temperature, labels, epochs and views on a part of the photographs, in results/cats_vs_dogs_studies
# make front    a dozen students of one teacher: what each costs and gives, in results/cats_vs_dogs_front; NAME, SEEDS as above, LADDER, SHARE
# make bench    how fast it all is (9 to 16 minutes on two cores that do nothing else)
# make lock     requirements.txt and requirements-cluster.txt, anew from pyproject.toml (needs uv)

SUPPORTED := import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12), (3, 13)))
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3 python; do \
	$$python -c '$(SUPPORTED)' 2>/dev/null && echo $$python && break; done)
# Those that the environment was made from, if there is one.
REQUIREMENTS ?= $(or $(patsubst .venv/installed-%,%.txt,$(wildcard .venv/installed-*)),requirements.txt)
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# With the default shell, macOS's make 3.81 looks for simple commands in the PATH that it was started with.
SHELL := bash

.PHONY: run test check real studies front bench lock environment

run: environment
	dvc repro
	@printf '\nNow change one number and compare:\n  source .venv/bin/activate\n  git add -A && git commit -m "First run"\n  dvc exp run -S distill.alpha=0.3\n  dvc metrics diff\n'

# In the files' order: by number of tests, as xdist would, those that take longest begin last and end alone.
test: environment
	ruff check . && ruff format --check . && pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

check: environment
	pytest --quiet checks

real: environment
	FOLDS="$(FOLDS)" SEEDS="$(SEEDS)" studies/record.sh $(or $(NAME),cats_vs_dogs)

studies: environment
	studies/sweeps.sh

front: environment
	LADDER="$(LADDER)" SHARE="$(SHARE)" SEEDS="$(SEEDS)" studies/front.sh $(or $(NAME),cats_vs_dogs)

bench: environment
	python -m benchmarks

INSTALLED := .venv/installed-$(basename $(notdir $(REQUIREMENTS)))
environment: $(INSTALLED)

$(INSTALLED): $(REQUIREMENTS) pyproject.toml
	"$(PYTHON)" -c '$(SUPPORTED)' || { echo "error: Python 3.11, 3.12 or 3.13 is needed: make PYTHON=/path/to/python3.13" >&2; exit 1; }
	"$(PYTHON)" -m venv --clear .venv
	python -m pip install --quiet --disable-pip-version-check -r $(REQUIREMENTS)
	python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

LOCK := uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --custom-compile-command "make lock" \
	--extra cpu --extra dev pyproject.toml
lock:
	$(LOCK) -o requirements.txt >/dev/null
	$(LOCK) --extra cluster --constraint requirements.txt -o requirements-cluster.txt >/dev/null
