# make quickstart   train a teacher and its student on movie reviews, and compare the two (about six minutes)
# make test-fast    the unit tests (under 90 seconds)
# make test         the tests at the newest supported transformers, without the slow ones (under 8 minutes)
# make test-all     every test at the newest and at the oldest supported transformers (under an hour)
# make lint         check format, style, spelling, types and the order of imports; `make format` corrects the first two
# make docs         build the documentation in runs/site; a dead link fails
# make package      build the distributions, check them, and use the wheel in a bare environment

PYTHON ?= python3
NEWEST = .venv
OLDEST = .venv-oldest
BARE = .venv-bare

.PHONY: quickstart test-fast test test-all test-slow test-oldest lint format docs package

quickstart: $(NEWEST)/installed
	$(NEWEST)/bin/python examples/quickstart.py

# One test process per core and one thread per process: the models of the tests are too small for more.
PYTEST = OMP_NUM_THREADS=1 $(1)/bin/python -m pytest --numprocesses auto --maxprocesses 8

test-fast: $(NEWEST)/installed
	$(call PYTEST,$(NEWEST)) -m "not slow" --fast

test: $(NEWEST)/installed
	$(call PYTEST,$(NEWEST)) -m "not slow"

test-slow: $(NEWEST)/installed
	$(call PYTEST,$(NEWEST)) -m slow

test-oldest: $(OLDEST)/installed
	$(call PYTEST,$(OLDEST))

test-all: test test-slow test-oldest

lint: $(NEWEST)/installed
	$(NEWEST)/bin/ruff format --check .
	$(NEWEST)/bin/ruff check .
	$(NEWEST)/bin/typos
	$(NEWEST)/bin/lint-imports
	$(NEWEST)/bin/mypy

format: $(NEWEST)/installed
	$(NEWEST)/bin/ruff format .
	$(NEWEST)/bin/ruff check --fix .

docs: $(NEWEST)/installed
	$(NEWEST)/bin/python -m mkdocs build --strict

package: $(NEWEST)/installed
	rm -rf dist $(BARE)
	$(NEWEST)/bin/python -m build --outdir dist .
	$(NEWEST)/bin/python -m twine check --strict dist/*
	$(PYTHON) -m venv $(BARE)
	$(BARE)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints/newest.txt dist/*.whl
	cd dist && ../$(BARE)/bin/tkd-hf --help > /dev/null
	cd dist && ../$(BARE)/bin/python ../tests/bare_wheel.py
	rm -rf $(BARE)

# constraints/ pins the versions that are tested together; pyproject.toml gives the supported ranges.
$(NEWEST)/installed: EXTRAS = dev,docs
$(NEWEST)/installed: constraints/newest.txt pyproject.toml
$(OLDEST)/installed: EXTRAS = dev,openvino
$(OLDEST)/installed: constraints/oldest.txt pyproject.toml
%/installed:
	$(PYTHON) -m venv $*
	$*/bin/python -m pip install --quiet --disable-pip-version-check --constraint $< --editable ".[$(EXTRAS)]"
# optimum-intel installs a torchvision that does not load beside the CPU build of torch; text models do not use it.
	$*/bin/python -m pip uninstall --quiet --yes torchvision
	touch $@
