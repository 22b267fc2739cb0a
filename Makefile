# make demo | test | check | docs | slow | conformance | compatibility | absent-input | quantised | bench | wheel | format | clean. Needs Python >= 3.11 and make, nothing else.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
# make test TORCH=2.14.1: the default tests against another torch, in an environment of its own.
TORCH ?=
ifneq ($(TORCH),)
VENV := .venv-torch-$(TORCH)
endif
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PINNED_TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)

.DEFAULT_GOAL := test
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: install demo test check lint types imports tests docs slow conformance compatibility absent-input quantised bench wheel format clean

# An activated environment must not leak into ours.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV

install: $(INSTALLED)

# Made once; installed into again when the pins or the package's own description change.
# PIP_CONSTRAINT, not -c: it also pins what pip builds with.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "subsense needs Python >= 3.11, $(PYTHON) is " \
	    + sys.version.split()[0] + ": say which one to use with make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

# As constraints.txt has it, but for the torch that was asked for.
$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing subsense and what it needs into $(VENV): takes minutes the first time."
	sed 's/^torch==.*/torch==$(or $(TORCH),$(PINNED_TORCH))/' constraints.txt > $(VENV)/constraints.txt
	PIP_CONSTRAINT=$(abspath $(VENV))/constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(INSTALLED)
	$(BIN)/subsense demo

test: $(if $(TORCH),tests,demo check)

check: lint types imports tests

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

imports: $(INSTALLED)
	$(BIN)/lint-imports

tests: $(INSTALLED)
	$(BIN)/pytest -n $(WORKERS) --dist worksteal --durations 10

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

slow: $(INSTALLED)
	$(BIN)/pytest -m slow --durations 10

conformance: $(INSTALLED)
	$(BIN)/pytest tests/conformance -m 'not gpu' --durations 10

compatibility: $(INSTALLED)
	PYTHONPATH=tests $(BIN)/python -m conformance.compatibility docs/compatibility.md

# timm imports torchvision, whose operators can't be loaded beside this torch; no layer here calls one.
absent-input: $(INSTALLED)
	$(PYTHON) -m venv .venv-absent
	.venv-absent/bin/python -m pip install --quiet --disable-pip-version-check --no-deps timm==1.0.31 torchvision==0.28.0
	echo "import site; site.addsitedir('$$($(abspath $(BIN))/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")')" \
	    > $$(.venv-absent/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/dev.pth
	PYTHONPATH=tests OMP_NUM_THREADS=1 .venv-absent/bin/python -W ignore -m conformance.absent docs/absent-input.md

# In an environment of its own: where torchao is installed, every import of transformers loads it, and tells of what it lacks.
quantised: $(INSTALLED)
	$(PYTHON) -m venv .venv-quantised
	.venv-quantised/bin/python -m pip install --quiet --disable-pip-version-check --no-deps torchao==0.18.0
	echo "import site; site.addsitedir('$$($(abspath $(BIN))/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")')" \
	    > $$(.venv-quantised/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/dev.pth
	OMP_NUM_THREADS=1 .venv-quantised/bin/python -m pytest -q tests/adapters/test_quantised.py

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks.speed --out build/speed

wheel: $(INSTALLED)
	$(BIN)/python -m build --wheel --no-isolation

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .venv-absent .venv-quantised .venv-torch-* build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find src tests -name __pycache__ -prune -exec rm -rf {} +
