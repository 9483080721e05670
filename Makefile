# Every target sets up what it needs: a Python 3.11 with pip is all that must be there.
# Another interpreter: make PYTHON=/path/to/python3.12 test

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
SYSTEM := $(VENV)/.system
KOTLIN := $(VENV)/npm/node_modules/kotlin-compiler
ZOO    := $(VENV)/zoo
CXX_SOURCES = $(shell git ls-files '*.cpp' '*.h' 2>/dev/null)

# One file of tests stays in one worker, which then builds what its tests share just once.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test test-slow zoo check format clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## install everything into .venv (the others do it when needed)

demo: $(READY) $(SYSTEM) ## compile and validate MobileNetV2 and a digits network for android-arm64
	@PATH="$(CURDIR)/$(BIN):$$PATH" examples/demo.sh

test: $(READY) $(SYSTEM) ## run the tests (two processes)
	$(PYTEST) -m "not slow"

test-slow: $(READY) $(SYSTEM) $(KOTLIN) ## run the tests that take minutes
	$(PYTEST) -m slow

zoo: $(READY) $(ZOO) ## build some 290 networks in every format (hours; goes on where it was), and print the table
	OMP_NUM_THREADS=1 EDGECOMPILE_ZOO=$(CURDIR)/$(ZOO) $(BIN)/python benchmarks/zoo.py --output build/zoo
	@$(BIN)/python benchmarks/zoo.py --output build/zoo --table

check: $(READY) ## lint, formatting and types, without changing anything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(if $(CXX_SOURCES),$(BIN)/clang-format --dry-run --Werror $(CXX_SOURCES))

format: $(READY) ## format Python and C++ in place
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(if $(CXX_SOURCES),$(BIN)/clang-format -i $(CXX_SOURCES))

clean: ## remove .venv and everything built
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The build tools come first and pinned: pip's isolated builds would ignore the constraints.
$(READY): pyproject.toml constraints.txt examples/requirements.txt | $(BIN)/pip
	@echo 'installing into $(VENV): some minutes the first time'
	$(BIN)/python -m pip install -q -c constraints.txt hatchling editables setuptools
	$(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation -e '.[dev]'
	$(BIN)/python -m pip install -q --no-deps -r examples/requirements.txt
	@touch $@

# The demo and the runner's tests cross-compile and emulate arm64, and reach an sshd and an adb server of their
# own; the report's tests open it in Chromium, embedded JavaScript runs there and in Node.js, and embedded C++
# verifies signatures with OpenSSL. Without these packages they skip and say so. Where systemd runs, the package of sshd would start a service for all the
# network: there it is left to you. Node.js from elsewhere brings its own npm, and Debian's would be in its way.
$(SYSTEM): Makefile | $(READY)
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo 'installing the arm64 compiler and emulator, adb, ssh, Chromium and Node.js'; \
	  apt-get update -qq >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
	    --no-install-recommends g++ crossbuild-essential-arm64 qemu-user adb openssh-client \
	    chromium chromium-driver fonts-liberation libssl-dev \
	    $$(command -v npm >/dev/null || echo nodejs npm) \
	    $$([ -d /run/systemd/system ] || echo openssh-server) >/dev/null || \
	    echo 'note: apt-get failed; tests that need these packages are skipped' >&2; \
	else \
	  echo 'note: not root on Debian: without the packages that the Makefile names here some tests skip' >&2; \
	fi
	@touch $@

# The slow tests compile what `embed` writes for Android and React Native; without npm and Java they skip that and
# say so. No scripts: react-native-executorch would download its engines.
$(KOTLIN): | $(READY) $(SYSTEM)
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends default-jre-headless \
	    >/dev/null || echo 'note: apt-get failed: there may be no Java' >&2; \
	fi
	@if command -v npm >/dev/null && command -v java >/dev/null; then \
	  npm install --silent --no-save --ignore-scripts --legacy-peer-deps --prefix $(VENV)/npm \
	    kotlin-compiler@2.4.20 typescript@5.9.3 react-native-executorch@0.10.2 react-native-blob-util@0.24.11 \
	    @types/react@19.3.3 || \
	    echo 'note: npm failed; tests that need these compilers are skipped' >&2; \
	else \
	  echo 'note: no npm or no java: tests that need a Kotlin or TypeScript compiler are skipped' >&2; \
	fi

# Beside the packages of the product, not among them: nothing of it may depend on them.
$(ZOO): benchmarks/zoo_requirements.txt | $(READY)
	$(BIN)/python -m pip install -q --no-deps --upgrade --target $@ -r $<
	@touch $@

# Debian's python3.11 without python3.11-venv has no ensurepip: there, pip puts itself in.
$(BIN)/pip:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: Python 3.11 or later is needed, found '$(PYTHON)': make PYTHON=/path/to/python3.11" >&2; \
	  exit 1; }
	@"$(PYTHON)" -m venv $(VENV) >/dev/null 2>&1 || { \
	  "$(PYTHON)" -m venv --clear --without-pip $(VENV) && \
	  "$(PYTHON)" -m pip --python $(BIN)/python install -q pip; } || { \
	  echo "error: '$(PYTHON)' can make no virtual environment: it needs the module venv, and pip 22.3 or later" >&2; \
	  exit 1; }
