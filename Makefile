# make run     the pipeline on the embedded default, ending in a table
# make test    all tests
# make real    the full run on real photographs, published to results/cats_vs_dogs
# make lock    requirements.txt, anew from pyproject.toml

PYTHON ?= $(shell command -v python3.12 || command -v python3.11 || command -v python3)
REQUIREMENTS ?= requirements.txt
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: run test real lock environment
.ONESHELL:

run: environment
	dvc repro

test: environment
	ruff check . && ruff format --check . && pytest

real: environment
	presets/run.sh cats_vs_dogs

environment: .venv/installed

.venv/installed: $(REQUIREMENTS) pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("error: Python 3.11 or 3.12 is needed, and this is %d.%d: make PYTHON=python3.12" % sys.version_info[:2] if sys.version_info[:2] not in ((3, 11), (3, 12)) else 0)' || exit 1
	$(PYTHON) -m venv .venv || exit 1
	python -m pip install --quiet --disable-pip-version-check -r $(REQUIREMENTS) || exit 1
	python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . || exit 1
	touch .venv/installed

lock:
	uv pip compile --universal --generate-hashes --no-emit-index-url --python-version 3.11 --extra cpu --extra dev pyproject.toml -o requirements.txt
