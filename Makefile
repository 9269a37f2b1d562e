# make demo    train a small Mask R-CNN on drawn shapes and look at what it finds
# make test    the quick tests         make test-all   the slow ones too
# make check   style and types         make docs       the documentation as a site in site/
# make clean   remove what the above made, but not .venv
#
# Everything stays in this folder; packages go into .venv once. Python 3.11 or newer: the first of PYTHON that is,
# or name one: make demo PYTHON=/opt/python3.12/bin/python3

PYTHON ?= python3 python3.13 python3.12 python3.11
RUN := .venv/bin/python

.PHONY: help demo test test-all check docs clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# //p; /^$$/q' Makefile

demo: .venv/.core
	@$(RUN) tools/demo.py

# Each process compiles nothing that another has compiled before; computing threads would wait for one another.
test: .venv/.test
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test-all: .venv/.test
	$(RUN) -m pytest -m "slow or not slow"

check: .venv/.dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

docs: .venv/.docs
	$(RUN) -m mkdocs build --strict

clean:
	rm -rf demo site build dist rcnn_toolkit.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name .venv -prune -o -type d -name __pycache__ -exec rm -rf {} +

# A stamp in .venv for each set of packages; a larger set stamps the smaller ones too. .unfinished stands there while
# something is being installed: found at the start, it means that the last time was cut off, and .venv is made anew.
# Paths are relative and programs are run as modules, so that the folder's name may hold spaces.
define install
@set -e; \
if [ -e .venv/.unfinished ] || ! $(RUN) -m pip --version >/dev/null 2>&1; then \
	found=; \
	for python in $(PYTHON); do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
			found=$$python; break; \
		fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "No Python 3.11 or newer among: $(PYTHON). Install one, or name it: make PYTHON=/path/to/python" >&2; \
		exit 1; \
	fi; \
	rm -rf .venv; mkdir .venv; touch .venv/.unfinished; \
	"$$found" -m venv .venv; \
fi; \
touch .venv/.unfinished; \
echo "Installing $(1) into .venv (once; PyTorch is large)"; \
$(RUN) -m pip install --quiet --disable-pip-version-check --editable '$(1)'; \
touch $(2); \
rm .venv/.unfinished
endef

.venv/.core: setup.py
	$(call install,.,.venv/.core)

.venv/.test: setup.py
	$(call install,.[test],.venv/.core .venv/.test)

.venv/.dev: setup.py
	$(call install,.[dev],.venv/.core .venv/.test .venv/.dev)

.venv/.docs: setup.py
	$(call install,.[docs],.venv/.core .venv/.docs)
