# make run    one simulation, with what it needs to run
# make test   linters, types, layers and tests; also: make lint, make benchmark
# A python may be chosen with PYTHON=..., another place for the environment with VENV=...

VENV ?= .venv
MINIMUM := 3.11
ifndef PYTHON
PYTHON := $(shell for python in python3.13 python3.12 python3.11 python3 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)
endif

# An environment is sound if it was finished, here and not where this folder lay before, and its python runs.
SOUND := $(shell test "$$(cat $(VENV)/made 2>/dev/null)" = '$(CURDIR)' && $(VENV)/bin/python -c '' 2>/dev/null && echo yes)
ifneq ($(SOUND),yes)
$(shell rm -f $(VENV)/made $(VENV)/installed $(VENV)/installed-dev)
endif

.PHONY: run test lint benchmark

run: $(VENV)/installed
	$(VENV)/bin/stream-mla run deepseek_v3 --accelerator flat_cloud --context 4096 --bits weights=8,cache=8,activations=8

test: lint
	$(VENV)/bin/python -m pytest

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python
	$(VENV)/bin/lint-imports

benchmark: $(VENV)/installed-dev
	$(VENV)/bin/python -m pytest benchmarks

$(VENV)/installed: EXTRA =
$(VENV)/installed-dev: EXTRA = [dev]

$(VENV)/installed $(VENV)/installed-dev: pyproject.toml
	@test -n '$(PYTHON)' || { echo 'no python >= $(MINIMUM) found: install one, or name one with make PYTHON=...' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo '$(PYTHON) is not a python >= $(MINIMUM): name another with make PYTHON=...' >&2; exit 1; }
	@test -e $(VENV)/made || $(PYTHON) -m venv --clear $(VENV)
	@rm -f $(VENV)/made
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.$(EXTRA)'
	@echo '$(CURDIR)' > $(VENV)/made
	@touch $@
