# Two commands: `make sweep` runs the demo, `make test` runs the tests. Both make .venv first; a second start of either
# installs nothing and repeats no finished run.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One more than cores: tests of clusters and killed processes mostly wait.
WORKERS ?= 3
# Compiled modules are kept, whatever the surroundings say: tests start hundreds of processes.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: sweep test pytest coverage lint imports format docs clean help

help:
	@echo "make sweep   install into $(VENV), run sweeps/demo.yaml, print the table"
	@echo "make test    install with test tools, run the linters and the tests; with -j 2 side by side"
	@echo "make coverage  the tests, and which lines they reach"
	@echo "make lint    ruff, the order of imports and mypy alone"
	@echo "make format  let ruff mend what it can"
	@echo "make docs    build the site into build/site; a broken link is an error"
	@echo "PYTHON=python3.12 make …   another interpreter (3.11 to 3.13)"

sweep: $(VENV)/.installed
	$(BIN)/vitq sweep demo

test: lint pytest

pytest: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --max-worker-restart=0 --durations=40

# The same tests, and which lines they reach; tracing costs up to half of their time again.
coverage: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --max-worker-restart=0 --cov --cov-report=term:skip-covered

lint: $(VENV)/.installed-dev imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# import-linter reads one folder for a package; launchers/, imported as vitq.launchers, lies beside vitq/ in a checkout.
imports: $(VENV)/.installed-dev
	rm -rf build/imports
	mkdir -p build/imports
	cp -R vitq build/imports/vitq
	cp -R launchers build/imports/vitq/launchers
	rm -r build/imports/vitq/launchers/hydra_plugins
	cd build/imports && $(CURDIR)/$(BIN)/lint-imports --no-logo --no-cache ../../pyproject.toml

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-dev
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) build dist *.egg-info

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else f"vitq needs Python 3.11, 3.12 or 3.13; $(PYTHON) is {v[0]}.{v[1]}. Start again with one of these, e.g. make PYTHON=python3.12 sweep")'
	$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	touch $@

# The stamps are older than pyproject.toml when the dependencies may have changed.
$(VENV)/.installed: pyproject.toml $(VENV)/.python
	$(BIN)/python -m pip install --quiet -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.python
	$(BIN)/python -m pip install --quiet -e '.[dev,docs]'
	touch $@ $(VENV)/.installed
