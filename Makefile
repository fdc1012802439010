# Two commands do everything on a fresh machine with Python 3.11 and a package index: make demo, make test.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
EXTRAS := hamilton,flowerpower
# Tests wait more than they compute: two processes for each core, and no more than the servers have room for.
SPREAD ?= -n $(shell n=$$(( 2 * $$(getconf _NPROCESSORS_ONLN) )); echo $$(( n < 8 ? n : 8 ))) --dist worksteal

# The tests start a thousand processes; each would compile everything anew where this is set.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help venv fuzz test suite rio bars chaos cross services unit check conformance installs docs demo bench lock clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

venv: $(VENV)/.dev  ## a virtual environment with everything that developing needs

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "penstock needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

# Stamps: each is made once its packages are in, so that a set-up is done once and a broken one is done again.
$(VENV)/.examples: $(BIN)/python pyproject.toml constraints/examples.txt
	$(BIN)/python -m pip install -qq -r constraints/examples.txt -e '.[$(EXTRAS)]'
	@touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml constraints/dev.txt
	$(BIN)/python -m pip install -qq --no-deps -r constraints/dev.txt
	$(BIN)/python -m pip install -qq --no-deps -e .
	@touch $@ $(VENV)/.examples

test: suite $(if $(ARGS),,bars)  ## everything: the suite, then the bars of reliability; with ARGS the suite alone

suite: $(VENV)/.dev services  ## every engine and ledger, on private real servers
	$(BIN)/python -m pytest -q $(SPREAD) --ignore tests/chaos/test_bars.py $(ARGS)

rio: $(VENV)/.dev  ## periodic jobs in a Rio app, in a real Chromium, which is installed as root on Debian
	@bash tools/services.sh chromium
	$(BIN)/python -m pytest -q tests/integration/test_rio.py tests/integration/test_rio_browser.py $(ARGS)

bars: $(VENV)/.dev services  ## every bar of reliability at its small size: kills, outages, hostile messages
	$(BIN)/python -m pytest -q $(SPREAD) tests/chaos/test_bars.py $(ARGS)

chaos: $(VENV)/.dev services  ## the bars of reliability at full size, into their document; ARGS="--bar 1 --engine rq+redis --seed 7"
	$(BIN)/python tests/chaos/run.py --write $(ARGS)

soak: $(VENV)/.dev services  ## all faults at random for an hour; SOAK_S=600 for less, ARGS="--seed 7" to replay
	SOAK_S=$${SOAK_S:-3600} $(BIN)/python tests/chaos/run.py --bar 20 --write $(ARGS)

cross: $(VENV)/.dev services  ## the conformance suite alone, every engine on every ledger
	$(BIN)/python -m pytest -q $(SPREAD) src/penstock/testing/conformance --every-ledger $(ARGS)

services:  ## the servers that the tests need and no wheel carries, as root on Debian
	@bash tools/services.sh

unit: $(VENV)/.dev  ## the quick part of the suite
	$(BIN)/python -m pytest -q tests/unit -m 'not slow and not servers' $(ARGS)

fuzz: $(VENV)/.dev  ## 10,000 fuzzed messages, payloads, rows, settings and job files; SEED=... replays a run
	PENSTOCK_TEST_FUZZ=1112 $(BIN)/python -m pytest -q tests/fuzz -p no:cacheprovider $(if $(SEED),--hypothesis-seed=$(SEED)) $(ARGS)

conformance: $(VENV)/.dev  ## unit and conformance tests: what may differ from one Python to another
	$(BIN)/python -m pytest -q $(SPREAD) -m 'not servers' tests/unit src/penstock/testing/conformance $(ARGS)

check: $(VENV)/.dev  ## format, lint, types, import floors, architecture, generated pages
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest -q tests/architecture
	$(BIN)/python tools/docs.py --check

installs: $(VENV)/.dev services  ## each extra in a new environment, as pip resolves it, and a job through it
	$(BIN)/python tools/clean_installs.py $(ARGS)

docs: $(VENV)/.dev  ## write the generated pages again
	$(BIN)/python tools/docs.py

demo: $(VENV)/.examples  ## real FlowerPower pipelines as jobs
	$(BIN)/python examples/flights/demo.py

bench: $(VENV)/.dev  ## a table of speeds and sizes
	$(BIN)/python benchmarks/run.py

lock:  ## compile the constraints again; needs uv
	for group in dev examples; do \
	  uv pip compile pyproject.toml --extra hamilton --extra flowerpower --group $$group --universal \
	    --python-version 3.11 --no-header --no-annotate --no-emit-index-url --no-emit-package penstock \
	    --override constraints/overrides.txt \
	    --upgrade -q -o constraints/$$group.txt || exit 1; \
	done

clean:  ## remove what the targets above made
	rm -rf .venv .venv-* build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
