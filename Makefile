# make run    the relay on its embedded defaults (needs Python >= 3.11 with venv, nothing else)
# make test   everything; tests of peers that are not installed skip and say what to install
# make check  ruff, mypy --strict, the folder law
# make bench  the tables of docs/performance.md: make bench ARGS="w1 w3 --quick"; needs root
# make bench-reliability  the checks of docs/reliability.md, some of them for minutes; ARGS="R1 --quick"

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test check bench bench-reliability clean

run: $(VENV)/run.stamp
	$(BIN)/relay serve

test: $(VENV)/test.stamp
	$(BIN)/pytest $(ARGS)

check: $(VENV)/test.stamp
	$(BIN)/ruff check relay tests bench
	$(BIN)/ruff format --check relay tests bench
	$(BIN)/mypy
	$(BIN)/pytest tests/test_layers.py

bench: $(VENV)/bench.stamp
	$(BIN)/python -m bench $(ARGS)

bench-reliability: $(VENV)/test.stamp
	$(BIN)/python -m bench.reliability $(ARGS)

clean:
	rm -rf $(VENV)

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: apt install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; this is $$($(PYTHON) --version). Name another with: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "Python's venv is missing: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/pip install -q --disable-pip-version-check -e .
	@touch $@

$(VENV)/test.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/pip install -q --disable-pip-version-check -e '.[test]'
	@touch $@ $(VENV)/run.stamp

$(VENV)/bench.stamp: $(VENV)/test.stamp
	$(BIN)/pip install -q --disable-pip-version-check -e '.[bench]'
	@touch $@
