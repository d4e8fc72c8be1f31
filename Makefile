# make setup | demo | test | lint | docs | bench | report | clean; needs only python3 (3.11 or newer) and git.
PYTHON ?= python3
BIN := .venv/bin
SHELL := /bin/sh
export UV_LINK_MODE ?= copy
export DVC_NO_ANALYTICS = 1

# The maps that elevation and nightlights read, which come in an npm package; of its archive these files alone are kept.
GLOBE = three-globe-2.45.2

.PHONY: setup globe demo test lint docs bench report clean help

help:
	@echo "make setup   install into .venv, with the exact versions of constraints.txt"
	@echo "make globe   fetch the maps that the tasks elevation and nightlights read (needs npm)"
	@echo "make demo    run the benchmark in params.yaml (the demo by default) and print its table"
	@echo "make test    run the tests, those in docstrings too"
	@echo "make lint    check formatting, style and types"
	@echo "make docs    build the documentation's site, build/site/index.html"
	@echo "make bench   measure speed (python -m benchmarks --list says of what)"
	@echo "make report  print the headline table and where the report is"
	@echo "make clean   remove what runs made (results too; the data caches of DVC stay)"

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("mergeline needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Choose one: make setup PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^uv==' constraints.txt)"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --requirement constraints.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

globe: data/three-globe/package.json

data/three-globe/package.json:
	@command -v npm >/dev/null || { echo "make globe needs npm; on Debian: apt-get install npm"; exit 2; }
	mkdir -p data/three-globe
	npm pack --silent --pack-destination data three-globe@$(GLOBE:three-globe-%=%)
	tar -xzf data/$(GLOBE).tgz -C data/three-globe --strip-components=1 package/LICENSE package/example/img package/package.json
	rm data/$(GLOBE).tgz

demo: setup
	$(BIN)/mergeline run
	$(BIN)/mergeline report

test: setup
	$(BIN)/python -m pytest --quiet --doctest-modules --junitxml=.pytest_cache/doctests.xml mergeline stages flows
	$(BIN)/python -m pytest --numprocesses 2 --junitxml=.pytest_cache/tests.xml

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "docs: build/site/index.html"

bench: setup
	$(BIN)/python -m benchmarks

report: setup
	$(BIN)/mergeline report

clean:
	rm -rf artifacts logs build/site reports/figures reports/tables reports/*.html reports/*.md reports/*.parquet .mergeline .prefect
