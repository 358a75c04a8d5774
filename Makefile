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

.PHONY: run test lint letter benchmark schedulers peers solvers

run: $(VENV)/installed
	$(VENV)/bin/stream-mla run deepseek_v3 --accelerator flat_cloud --context 4096 --bits weights=8,cache=8,activations=8

test: lint
	$(VENV)/bin/python -m pytest -n auto --dist worksteal

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python
	$(VENV)/bin/lint-imports

# the letter's figures, with what they hide, in letter/: about ten minutes the first time
letter: $(VENV)/installed-dev
	$(VENV)/bin/stream-mla reproduce letter --out letter

benchmark: $(VENV)/installed-dev
	$(VENV)/bin/python -m pytest benchmarks

# instances through our scheduler and the alternatives: an hour or two; --quick takes a minute
schedulers: $(VENV)/installed-dev
	$(VENV)/bin/python -m benchmarks.schedulers

# the blocks of Stream 2.1.1 beside Stream, which is run too where Python 3.12 is there
peers: $(VENV)/installed-dev
	$(VENV)/bin/python -m benchmarks.peers

# the solver's optima on the oldest and the newest OR-Tools that pyproject.toml allows
solvers: $(VENV)/installed-dev
	@for version in 9.14.6206 9.15.6755; do \
		$(PYTHON) -m venv --clear $(VENV)-ortools-$$version && \
		$(VENV)-ortools-$$version/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' "ortools==$$version" && \
		echo "OR-Tools $$version" && \
		$(VENV)-ortools-$$version/bin/python -m pytest tests/solvers/cp_sat/test_oracle.py tests/solvers/cp_sat/test_solve.py || exit 1; \
	done

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
