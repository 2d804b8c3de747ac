# The commands of the project; `make help` lists them.
#
# Each sets up by itself what it needs: distribution packages with apt-get where they are missing (as root, or
# through sudo), then the virtual environment .venv. When all of that stands, it costs nothing.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

PREFIX ?= /usr/local
DESTDIR ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check

BUILD_PACKAGES := libfuse3-dev fuse3 pkg-config gcc libc6-dev python3-dev python3-venv
TEST_PACKAGES := acl attr btrfs-progs chromium docker-registry e2fsprogs fuse-overlayfs git openssl podman skopeo umoci util-linux

# The interpreter to build on, any from 3.11 (PYTHON=... on the command line decides it). A real one: a version
# manager's shim would cost more at each start than a whole mount, so what it stands for is asked.
PYTHON ?=
define find-python
python="$(PYTHON)"
for candidate in /usr/bin/python3 /usr/bin/python3.1[1-9] python3; do
    [[ -n "$$python" ]] || python=$$("$$candidate" -c \
        'import sys; print(sys.executable if sys.version_info >= (3, 11) else "")' 2>/dev/null) || true
done
endef

# $(call apt,PACKAGES) installs those that are missing. The package lists are updated only if it fails without: a
# fresh machine has none, or old ones.
define apt
missing=()
for package in $(1); do
    [[ "$$(dpkg-query -W -f='$${Status}' "$$package" 2>/dev/null)" == *"ok installed" ]] || missing+=("$$package")
done
if [[ $${#missing[@]} -gt 0 ]]; then
    command -v apt-get >/dev/null || { echo "No apt-get here. Install what stands for: $${missing[*]}"; exit 1; }
    echo "Installing from the distribution: $${missing[*]}"
    apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0)
    [[ $$(id -u) -eq 0 ]] || apt=(sudo "$${apt[@]}")
    install=("$${apt[@]}" install --yes --no-install-recommends "$${missing[@]}")
    "$${install[@]}" </dev/null &>/dev/null || { "$${apt[@]}" update && "$${install[@]}" </dev/null >/dev/null; }
fi
endef

# What building takes: the packages, and $$python. Where python3 is older (Ubuntu 22.04) a newer one stands beside it.
define prepare
$(call apt,$(BUILD_PACKAGES))
$(find-python)
if [[ -z "$$python" ]]; then
    $(call apt,python3.11 python3.11-dev python3.11-venv)
    python=/usr/bin/python3.11
fi
endef

.PHONY: help
help:  ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

.PHONY: setup setup-dev setup-test
setup: $(VENV)/.ready  ## install what is missing and make .venv, with the program at .venv/bin/unionfs

setup-dev: $(VENV)/.ready-to-check  ## the same, with the tools that check it

setup-test: $(VENV)/.ready-to-test  ## the same, with what only the tests use

$(VENV)/.ready: pyproject.toml
	@$(prepare)
	echo "Making $(VENV) with $$python"
	"$$python" -m venv --clear $(VENV)
	$(PIP) -e .
	$(BIN)/python -m compileall -qq unionfs  # once, by its owner: the demo and the tests run as root
	touch $@

$(VENV)/.ready-to-check: $(VENV)/.ready
	@$(PIP) -e '.[dev]'
	touch $@

$(VENV)/.ready-to-test: $(VENV)/.ready-to-check Makefile
	@$(call apt,$(TEST_PACKAGES))
	touch $@

# What requests go through, translated by mypyc from the same sources: it takes a third less CPU so. What comes of it
# stays apart from the sources, or an edit would change nothing. The test of the house knows what mypyc cannot take.
MODULES := $(patsubst %,unionfs/%.py,\
    $(addprefix linux/,at filecopy fileops xattr) \
    $(addprefix core/,accesstimes acl attrs awaited copyup dirops fileflags files find index inos jobs layer lookup nodes \
        ondisk owners protection readdir redirects rename request staging state union upper xattrs) \
    $(addprefix fuse/,follow frozen fsioctl journal listing notes noting passthrough requests serving setid splicing wire))
COMPILED := build/compiled

.PHONY: compiled
compiled: $(COMPILED)/.done  ## the program as it is installed, with compiled modules, in build/compiled

$(COMPILED)/.done: $(shell find unionfs -name '*.py') pyproject.toml Makefile | $(VENV)/.ready-to-check
	@echo "Compiling $(words $(MODULES)) modules (one to two minutes; COMPILED= goes without)"
	rm -rf $(COMPILED)
	mkdir -p $(COMPILED)
	cp -r unionfs pyproject.toml $(COMPILED)
	cd $(COMPILED)
	MYPYC_OPT_LEVEL=2 MYPYC_DEBUG_LEVEL=0 $(CURDIR)/$(BIN)/mypyc $(MODULES) &>log || { cat log; exit 1; }
	rm -rf build .mypy_cache
	$(CURDIR)/$(BIN)/python -m compileall -qq unionfs
	touch .done

.PHONY: check lint types layers
check: lint types layers  ## what a commit must pass, besides the tests

lint: setup-dev  ## ruff: format and rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: setup-dev  ## mypy, strict
	$(BIN)/mypy unionfs tests $(wildcard benchmarks)

layers: setup-dev  ## import-linter: which package may import which
	$(BIN)/lint-imports --no-logo --no-cache

# The oracle of many tests is the kernel's overlayfs, which only root may mount; tests that are about ordinary users
# become one themselves. So a user with sudo runs them as root, without leaving root's files here. SUDO= runs them as
# the user, and skips by name what needs root.
SUDO ?= $(if $(filter-out 0,$(shell id -u)),$(shell command -v sudo))
AS_ROOT = $(if $(SUDO),$(SUDO) env CI=$(CI) PYTHONDONTWRITEBYTECODE=1 PYTEST_ADDOPTS='-p no:cacheprovider' \
    HYPOTHESIS_STORAGE_DIRECTORY=/var/tmp/unionfs-hypothesis)

.PHONY: test test-compiled fuzz conformance sweep bench
# A project that has the compiled modules, and the tests of this one: but for those that plant faults in sources.
IN_COMPILED = cd $(COMPILED) && ln -sfn $(CURDIR)/{tests,benchmarks,README.md} . && $(AS_ROOT) env PYTHONPATH=$$PWD
KILL_POINTS := tests/mounted/test_kill_points.py
ON_MOUNTS := --ignore $(KILL_POINTS) tests/mounted tests/differential tests/property

test: setup-test $(if $(ARGS),,compiled)  ## every test; what the machine cannot run is skipped by name, or fails where CI=true
	$(AS_ROOT) $(BIN)/pytest $(ARGS)
	$(if $(ARGS),,$(IN_COMPILED) $(CURDIR)/$(BIN)/pytest tests/property)

test-compiled: setup-test compiled  ## the tests on mounts, of the program as it is installed
	$(IN_COMPILED) $(CURDIR)/$(BIN)/pytest $(ON_MOUNTS) $(ARGS)

fuzz: setup-test compiled  ## an hour of random operations beside the kernel's overlayfs; ends at the first difference
	$(IN_COMPILED) $(CURDIR)/$(BIN)/python -m tests.property.fuzz $(ARGS)

# What the README reports, but for the suites of others: faults, concurrency, killed daemons, random operations on data
# and names, the kernel's overlayfs as oracle. A test that takes an hour hangs.
LONG := HYPOTHESIS_PROFILE=long
conformance: setup-test compiled  ## the evidence: the tests on mounts and beside the kernel, in long runs (about an hour)
	$(IN_COMPILED) $(LONG) $(CURDIR)/$(BIN)/pytest --timeout 3600 $(ON_MOUNTS) $(ARGS)

sweep: setup-test  ## the rest of it: the server killed at every step of every change (a quarter of an hour)
	$(AS_ROOT) env $(LONG) $(BIN)/pytest --timeout 3600 $(KILL_POINTS) $(ARGS)

.PHONY: demo
demo: setup  ## see it work: three real layers, mounted, entered, changed, explained
	@$(BIN)/unionfs demo

bench: setup-test compiled  ## the union beside the kernel and its peers: a table, and samples in benchmarks/results (as root)
	$(IN_COMPILED) $(CURDIR)/$(BIN)/python -m benchmarks $(ARGS)
	$(if $(ARGS),,$(AS_ROOT) env PYTHONPATH=$$PWD $(CURDIR)/$(BIN)/python -m benchmarks.images)

# A virtual environment of its own: the distribution's Python packages are not touched, and uninstalling is removing.
LIBDIR := $(PREFIX)/lib/unionfs
HELPER := /sbin/mount.fuse.unionfs
PROGRAMS := unionfs unionfs-overlay
.PHONY: install uninstall
install:  ## install for all users (PREFIX, DESTDIR), with the helper for mount -t fuse.unionfs
	@$(prepare)
	if [[ -n "$(COMPILED)" ]]; then  # as whom the checkout belongs to: root leaves nothing of its own in it
	    owner=$$(stat -c %U .)
	    as=()
	    [[ $$(id -u) -ne 0 || "$$owner" == root ]] || as=(runuser -u "$$owner" --)
	    "$${as[@]}" $(MAKE) --no-print-directory compiled
	fi
	lib="$(DESTDIR)$(LIBDIR)" bin="$(DESTDIR)$(PREFIX)/bin" helper="$(DESTDIR)$(HELPER)"
	install -d "$$bin" "$$(dirname "$$lib")"
	"$$python" -m venv --clear "$$lib"
	"$$lib/bin/python" -m pip install -qq --disable-pip-version-check .
	if [[ -n "$(COMPILED)" ]]; then
	    site=$$("$$lib/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
	    (cd $(COMPILED) && find . -name '*.so' -exec cp --parents '{}' "$$site" ';')
	fi
	echo "Installed $(LIBDIR): a virtual environment of its own"
	for name in $(PROGRAMS); do
	    sed -i '1s|.*|#!$(LIBDIR)/bin/python|' "$$lib/bin/$$name"  # not where DESTDIR has it now
	    ln -sfn "$(LIBDIR)/bin/$$name" "$$bin/$$name"
	    echo "Installed $(PREFIX)/bin/$$name"
	done
	if install -d "$$(dirname "$$helper")" && [[ -w "$$(dirname "$$helper")" ]]; then
	    printf '%s\n' '#!/bin/sh' '# mount(8) runs this for -t fuse.unionfs, with: SOURCE MOUNTPOINT -o OPTIONS' \
	        'for word; do [ "$$word" != -f ] || exit 0; done  # mount --fake; as a program of FUSE, ours takes it for foreground' \
	        'exec "$(LIBDIR)/bin/unionfs-overlay" "$$@"' >"$$helper"
	    chmod 755 "$$helper"
	    echo "Installed $(HELPER), for mount -t fuse.unionfs and /etc/fstab"
	else
	    echo "Left out $(HELPER): only root may write there, and mount -t fuse.unionfs needs it"
	fi
	echo "(/usr/bin/unionfs, if you have one, belongs to Debian's package unionfs-fuse, another program.)"

uninstall:  ## remove exactly what install put there
	@lib="$(DESTDIR)$(LIBDIR)" helper="$(DESTDIR)$(HELPER)"
	for name in $(PROGRAMS); do
	    link="$(DESTDIR)$(PREFIX)/bin/$$name"
	    if [[ "$$(readlink "$$link")" == "$(LIBDIR)/bin/$$name" ]]; then rm -v "$$link"; fi
	done
	if grep -qsF '"$(LIBDIR)/' "$$helper"; then rm -v "$$helper"; fi
	if [[ -f "$$lib/pyvenv.cfg" ]]; then rm -r "$$lib"; echo "removed '$$lib'"; fi

.PHONY: clean
clean:  ## remove .venv and every cache
	rm -rf $(VENV) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
