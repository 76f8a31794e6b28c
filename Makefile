# make setup | demo | demo-manual | test | test-long | test-foreign | lint | bench | bench-scale | bench-rebuild | bench-sim |
# bench-policy | bench-discs | docs | deb
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo demo-manual test test-long test-foreign lint fuzz bench bench-scale bench-rebuild bench-sim \
	bench-policy bench-discs docs deb clean

setup: $(STAMP)

$(STAMP): setup.cfg pyproject.toml .ci/system-packages
	@PYTHON="$(PYTHON)" .ci/system-packages
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: setup
	$(BIN)/python -m hsmfs.tools.demo

demo-manual: setup
	$(BIN)/python -m hsmfs.tools.manualdemo

test: setup
	$(BIN)/python -m pytest -q -m "not long"

test-long: setup
	HYPOTHESIS_PROFILE=long $(BIN)/python -m pytest -q

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python -m hsmfs.tools.bench

bench-scale: setup
	$(BIN)/python -m hsmfs.tools.bench.scale

bench-policy: setup
	$(BIN)/python -m hsmfs.tools.bench.policyscale

bench-rebuild: setup
	$(BIN)/python -m hsmfs.tools.bench.rebuildscale $(if $(LIBRARY),--library $(LIBRARY))

test-foreign: setup
	$(BIN)/python -m pytest -q tests/foreign tests/conformance/test_foreign_changer.py

bench-sim: setup
	$(BIN)/python -m hsmfs.tools.bench.sitereport

bench-discs: setup
	$(BIN)/python -m hsmfs.tools.bench.discspeed

fuzz: setup
	HSMFS_FUZZ_S=600 $(BIN)/python -m pytest -q -o faulthandler_timeout=0 tests/property/test_volume_fuzz.py tests/property/test_foreign_fuzz.py

docs: setup
	$(BIN)/mkdocs build --strict --quiet
	@echo build/docs/index.html

deb: setup
	$(BIN)/python packaging/builddeb.py

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
