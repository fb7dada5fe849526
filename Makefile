# Two commands: `make sweep` runs the demo, `make test` runs the tests. Both make .venv first; a second start of either
# installs nothing and repeats no finished run.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: sweep test lint clean help

help:
	@echo "make sweep   install into $(VENV), run sweeps/demo.yaml, print the table"
	@echo "make test    install with test tools, run ruff, mypy and the tests"
	@echo "make lint    ruff and mypy alone"
	@echo "PYTHON=python3.12 make …   another interpreter (3.11 to 3.13)"

sweep: $(VENV)/.installed
	$(BIN)/vitq sweep demo

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --max-worker-restart=0 --durations=40 --cov --cov-report=term:skip-covered

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

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
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@ $(VENV)/.installed
