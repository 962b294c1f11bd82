# proctor: `make` alone prints what there is.
#
# PYTHON chooses the interpreter: make test PYTHON=python3.13 (each gets its own environment).

PYTHON ?= python3
TAG    := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
VENV   ?= .venv-$(TAG)
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: help demo demo-agent test test-sanitize test-model test-races test-agent test-databases test-kernels check format bench tables wheel clean env packages

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml setup.py $(wildcard src/proctor/kernel/core/*.[ch] src/proctor/kernel/core/*/*.[ch] src/proctor/performing/executing/*.[ch])
	@test -n "$(TAG)" || { echo "make: $(PYTHON): no such Python; try make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is older than 3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	PROCTOR_STRICT=1 $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

env: $(STAMP) ## the virtual environment, with the project in it

packages: ## what the tests want from apt (root only; others skip what is missing)
	@sh tools/test-packages

demo: ## watch an unprivileged container make device nodes
	@PYTHON='$(PYTHON)' sh examples/demo/demo.sh || test $$? -eq 77  # 77: all that was shown worked

demo-agent: ## watch containers of runc, crun and LXC, served by one agent that is killed meanwhile
	@PYTHON='$(PYTHON)' sh examples/demo/demo.sh agent || test $$? -eq 77

test: $(STAMP) packages ## everything, against the real kernel
	$(BIN)/python -m tools.in_parts $(PYTEST)

test-sanitize: $(STAMP) ## the tests on a core built with AddressSanitizer and UBSan
	sh tools/test-sanitize $(BIN)/python

test-model: $(STAMP) ## the model against the kernel, and the supervisor on the model, at length
	sh tools/test-model $(BIN)/python

test-races: $(STAMP) packages ## racers against the monitor, and performing against the kernel, at length
	sh tools/test-races $(BIN)/python

test-agent: $(STAMP) packages ## real engines whose agent is killed, and thousands of containers, at length
	sh tools/test-agent $(BIN)/python

test-databases: $(STAMP) packages ## SQLite's and PostgreSQL's own tests, natively and with nothing synchronised
	sh tools/test-databases $(BIN)/python

test-kernels: $(STAMP) ## the comparison and tests on other kernels, emulated: KERNELS="6.1 5.10@bullseye", ARCH=arm64, PARTS="open mknod"
	@sh tools/test-packages kernels $(ARCH)
	$(BIN)/python -m tools.kernels $(if $(ARCH),--arch $(ARCH)) $(PARTS:%=--part %) $(KERNELS)

check: $(STAMP) ## format, lint, types, direction of imports
	$(BIN)/ruff format --check src tests bench examples tools
	$(BIN)/ruff check src tests bench examples tools
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## let ruff format everything
	$(BIN)/ruff format src tests bench examples tools
	$(BIN)/ruff check --fix src tests bench examples tools

bench: $(STAMP) ## ratios against a loop in C
	$(BIN)/python bench/roundtrip.py

tables: $(STAMP) ## regenerate the system-call tables
	$(BIN)/python tools/gen-tables

wheel: $(STAMP) ## build a wheel
	$(BIN)/python -m pip wheel --quiet --no-deps -w dist .

clean: ## remove what was built
	rm -rf .venv-* build dist src/proctor/kernel/*.so src/proctor/performing/executing/executor bench/floor bench/sockets
