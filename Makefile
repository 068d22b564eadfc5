# make quickstart   the main job, from nothing: a teacher, its student, and what the two are worth
# make test         the tests, at both ends of the supported range of transformers
# make lint         format and lint
# make docs         the pages of docs/ as a site, in runs/site

PYTHON ?= python3
NEWEST = .venv
OLDEST = .venv-oldest

.PHONY: quickstart test test-newest test-oldest lint format docs

quickstart: $(NEWEST)/installed
	$(NEWEST)/bin/python examples/quickstart.py

test: test-newest test-oldest

# a process a core, each of one thread: these models are too small for more
PYTEST = OMP_NUM_THREADS=1 $(1)/bin/python -m pytest --numprocesses auto --maxprocesses 8

test-newest: $(NEWEST)/installed
	$(call PYTEST,$(NEWEST))

test-oldest: $(OLDEST)/installed
	$(call PYTEST,$(OLDEST))

lint: $(NEWEST)/installed
	$(NEWEST)/bin/ruff format --check .
	$(NEWEST)/bin/ruff check .

format: $(NEWEST)/installed
	$(NEWEST)/bin/ruff format .
	$(NEWEST)/bin/ruff check --fix .

docs: $(NEWEST)/installed
	$(NEWEST)/bin/python -m mkdocs build --quiet

# the exact versions that were tested together stand in constraints/, the ranges in pyproject.toml
$(NEWEST)/installed: EXTRAS = dev,docs
$(NEWEST)/installed: constraints/newest.txt pyproject.toml
$(OLDEST)/installed: EXTRAS = dev,openvino
$(OLDEST)/installed: constraints/oldest.txt pyproject.toml
%/installed:
	$(PYTHON) -m venv $*
	$*/bin/python -m pip install --quiet --disable-pip-version-check --constraint $< --editable ".[$(EXTRAS)]"
# optimum-intel brings a torchvision that a torch for the CPU cannot load, and no text needs one
	$*/bin/python -m pip uninstall --quiet --yes torchvision
	touch $@
