# Needs Python 3.11 or later with pip, make and git. Everything else is installed into .venv by the first target that needs it.

VENV ?= .venv
LITELLM_VENV = $(VENV)-litellm
PYTHON ?= $(shell .ci/find-python)
WORKERS ?= 2
# Of tests that wait for servers and programs.
WAITING ?= 3
RUN = $(VENV)/bin/python -m
SOURCES = agent_runtime middleware adapters tests examples benchmarks
VERSIONS = 3.11 3.12 3.13
CONTRACTS = event_logs event_transports key_value_stores llm_clients middleware rate_limit_stores session_stores store_faults
# MongoDB's driver, closed while it connects to a server that is gone, leaves a socket to the garbage collector.
DRIVER_LEAVES_SOCKETS = -W "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
SCENARIOS = $(filter-out %/test_durable_scenarios.py,$(wildcard tests/scenarios/test_*_scenarios.py))
COVERING = unit security reliability test_package.py $(SCENARIOS:tests/%=%) $(CONTRACTS:%=conformance/test_%.py)

.DEFAULT_GOAL := help
.PHONY: help demo servers test test-all soak lint types docs bench format constraints clean

help:  ## Show this list.
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | awk -F '\t' '{ printf "%-12s %s\n", $$1, $$2 }'

demo: $(VENV)/.demo-installed  ## Watch an agent answer questions about these docs, and go on after its process was killed.
	$(VENV)/bin/agent-runtime demo

servers:  ## Install the servers that the tests need (Debian, as root); elsewhere say which URL is missing.
	.ci/servers

test: servers $(VENV)/.dev-installed $(LITELLM_VENV)/.installed  ## Run all tests; core and middleware must be covered to the last branch.
	$(RUN) coverage erase
	$(RUN) coverage run -m pytest -n $(WORKERS) $(COVERING:%=tests/%)
	$(RUN) coverage combine --quiet
	$(RUN) coverage report
	$(RUN) pytest -n $(WAITING) tests $(COVERING:%=--ignore=tests/%) -k "not mongo"
	$(RUN) pytest -n $(WORKERS) tests $(COVERING:%=--ignore=tests/%) -k mongo $(DRIVER_LEAVES_SOCKETS)
	$(LITELLM_VENV)/bin/python -m pytest tests/adapters_litellm

test-all:  ## Run all tests on Python 3.11, 3.12 and 3.13, each in an environment of its own.
	@for version in $(VERSIONS); do .ci/find-python $$version >/dev/null || missing=1; done; test -z "$$missing"
	@set -e; for version in $(VERSIONS); do \
		echo "===== Python $$version"; \
		$(MAKE) --no-print-directory test VENV=.venv-$$version PYTHON="$$(.ci/find-python $$version)"; \
	done

soak: servers $(VENV)/.dev-installed $(LITELLM_VENV)/.installed  ## Run all tests with the full counts of faults, cancellations and random inputs; write the table in docs/.
	@mkdir -p build/faults
	AGENT_RUNTIME_SOAK=1 $(RUN) pytest -n $(WORKERS) $(DRIVER_LEAVES_SOCKETS) --junitxml=build/faults/soak.xml
	AGENT_RUNTIME_SOAK=1 $(LITELLM_VENV)/bin/python -m pytest tests/adapters_litellm
	$(RUN) tests.faults.scorecard

lint: $(VENV)/.dev-installed  ## Check style and format.
	$(RUN) ruff check .
	$(RUN) ruff format --check .

types: $(VENV)/.dev-installed  ## Check types, twice: mypy and pyright, both strict.
	$(RUN) mypy $(SOURCES)
	$(RUN) pyright --pythonpath $(VENV)/bin/python

docs: $(VENV)/.dev-installed  ## Build the documentation into site/; a warning is an error.
	NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs build --strict
	@echo 'site/index.html is built; to read it: $(RUN) http.server --directory site'

bench: $(VENV)/.dev-installed  ## Measure each figure beside its limit and write the table in docs/.
	$(RUN) benchmarks

format: $(VENV)/.dev-installed  ## Sort imports, fix what can be fixed, format.
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

constraints: $(VENV)/.dev-installed  ## Write both files of constraints anew from pyproject.toml: newest versions, no addresses.
	$(COMPILE) --extra all --extra testing --group dev --group docs --output-file constraints.txt pyproject.toml
	$(COMPILE) --extra litellm --extra testing --output-file constraints-litellm.txt pyproject.toml

COMPILE = $(VENV)/bin/uv pip compile --quiet --universal --upgrade --python-version 3.11 --no-emit-index-url --no-annotate --no-header

clean:  ## Remove everything that these targets made.
	rm -rf .venv .venv-3.* .venv-litellm build dist site .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.pip-installed:
	@test -n "$(PYTHON)"
	"$(PYTHON)" -m venv $(VENV)
	$(RUN) pip install --quiet --upgrade pip
	-$(RUN) pip install --quiet -c constraints.txt uv
	@touch $@

# uv is quick; where it cannot be had, or is not set up for the index that pip uses, pip does the same.
install = $(RUN) uv pip install --quiet --python $(VENV)/bin/python -c constraints.txt $(1) || $(RUN) pip install --quiet -c constraints.txt $(1)

$(VENV)/.demo-installed: pyproject.toml constraints.txt | $(VENV)/.pip-installed
	$(call install,-e '.[all]')
	@touch $@

$(VENV)/.dev-installed: pyproject.toml constraints.txt | $(VENV)/.pip-installed
	$(call install,--group dev --group docs -e '.[all$(comma)testing]')
	@touch $@ $(VENV)/.demo-installed

# litellm wants an older openai than the `openai` extra: two environments.
$(LITELLM_VENV)/.installed: pyproject.toml constraints-litellm.txt | $(VENV)/.pip-installed
	@test -n "$(PYTHON)"
	"$(PYTHON)" -m venv $(LITELLM_VENV)
	$(RUN) uv pip install --quiet --python $(LITELLM_VENV)/bin/python -c constraints-litellm.txt $(LITELLM) \
		|| $(LITELLM_VENV)/bin/python -m pip install --quiet -c constraints-litellm.txt $(LITELLM)
	@touch $@

LITELLM = -e '.[litellm,testing]'

comma := ,
