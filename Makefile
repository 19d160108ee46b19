# make demo: a small language model trained with the kernels of this library.  make test: the tests.
# Both set up what they need in .venv; an active environment, or an installed torch of 2.9 or later, is used as it is.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: all env build demo test test-all check format docs sanitize bench clean

# The package is imported as flag_gems and lives in gems/: build/python holds a link of that name.
export PYTHONPATH := $(CURDIR)/build/python$(if $(PYTHONPATH),:$(PYTHONPATH))
PYTHON_FILE := build/python-path
PY = $$(cat $(PYTHON_FILE))
# Tests run in as many processes as there are cores, where pytest-xdist is here; one that has no more takes from the others.
PYTEST = $(PY) -m pytest -q -p no:cacheprovider $$($(PY) -c 'import xdist' 2> /dev/null && echo "-n auto --dist worksteal")
C_FILES := $(shell find csrc tests -name "*.c")

all: build

env:
	@mkdir -p build && python=$$(bash .ci/environment) && echo "$$python" > $(PYTHON_FILE)

# Compiles what changed and puts the extension into gems/. An environment of our own also learns where the package is.
build: env
	@mkdir -p build/python && ln -sfn ../../gems build/python/flag_gems
	@$(PY) setup.py --quiet build_ext --inplace
	@if [ -d .venv ] && [ "$(PY)" = "$(CURDIR)/.venv/bin/python" ]; then \
	    echo "$(CURDIR)/build/python" > "$$($(PY) -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/flag_gems.pth"; fi

demo: build
	@$(PY) examples/train_bytes.py

test: build
	$(PYTEST) -m "not slow"

test-all: build
	$(PYTEST)

# Warnings as errors, style, and that the generated page is what the table says.
check: build
	@bash .ci/environment ruff > /dev/null
	GEMS_WERROR=1 CC=gcc $(PY) setup.py --quiet build --build-base=build/check
	@if command -v clang > /dev/null; then \
	    GEMS_WERROR=1 CC=clang $(PY) setup.py --quiet build --build-base=build/check-clang; fi
	$(PY) -m ruff check setup.py gems tests benchmarks examples
	@if command -v clang-format > /dev/null; then clang-format --dry-run -Werror $(C_FILES); \
	else echo "clang-format is not here: layout of the C files not checked"; fi
	$(PY) -m flag_gems ops --markdown --check docs/operators.md

# Lays out the C files.
format:
	clang-format -i $(C_FILES)

docs: build
	$(PY) -m flag_gems ops --markdown --output docs/operators.md

# The C code under AddressSanitizer and UndefinedBehaviorSanitizer. Leaks are not looked for: Python keeps much at exit.
SANITIZE_LIB = $$(ls -d build/sanitize/lib.*)
SANITIZE_TESTS ?= tests
sanitize: build
	GEMS_SANITIZE=1 $(PY) setup.py --quiet build --build-base=build/sanitize
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so) $$(gcc -print-file-name=libstdc++.so)" \
	ASAN_OPTIONS=detect_leaks=0:detect_odr_violation=0:use_sigaltstack=0:quarantine_size_mb=2 UBSAN_OPTIONS=print_stacktrace=1 \
	PYTHONMALLOC=malloc GEMS_SANITIZED=1 PYTHONPATH="$(CURDIR)/$(SANITIZE_LIB)" \
	$(PYTEST) -o pythonpath="$(SANITIZE_LIB) tests benchmarks examples" -m "not slow and not gpu" $(SANITIZE_TESTS)

bench: build
	$(PY) -m flag_gems bench

clean:
	rm -rf build dist gems/*.so *.egg-info .pytest_cache .ruff_cache .hypothesis
