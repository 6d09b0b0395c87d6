# `make` lists what there is to make. Everything a target needs, Debian packages included, it sets up itself.

PYTHON  ?= /usr/bin/python3
PREFIX  ?= /usr/local
BUILD   := build
VENV    := .venv
BIN     := $(VENV)/bin
SHELL   := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# A picture for the demo: a photograph that Debian ships. Give your own with INPUT=.
INPUT   ?= /usr/share/backgrounds/mate/nature/RainDrops.jpg
OUTPUT  ?= $(BUILD)/demo/edges.jpg

PACKAGES := python3 python3-venv python3-dev gcc libc6-dev python3-bpfcc redis-server groff-base spin openssl iproute2 strace bpftrace \
            clang libclang-rt-dev lld wasi-libc libclang-rt-dev-wasm32 libstb-dev mate-backgrounds
BCC      := /usr/lib/python3/dist-packages/bcc

WASM_CC  := clang --target=wasm32-wasi --sysroot=/usr -O2 -msimd128 -mbulk-memory -Wall -Wextra -Werror \
            -I cwasi_fastpath/include
FUNCTIONS := $(patsubst examples/picture/%.c,$(BUILD)/functions/%.wasm,$(wildcard examples/picture/*.c))
GUESTS    := $(patsubst tests/guests/%.c,$(BUILD)/guests/%.wasm,$(wildcard tests/guests/*.c))

C_SOURCES := $(wildcard csrc/*.c csrc/*.h)

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 16

.PHONY: build
build: $(BIN)/.ready $(FUNCTIONS) ## .venv with cwasi and cwasi-trace, and the example functions

.PHONY: demo
demo: build ## a picture pipeline four ways, then a load that changes under the policy (INPUT=file)
	@mkdir -p $(dir $(OUTPUT))
	@-$(BIN)/cwasi calibrate > /dev/null   # so that the policy knows what ways cost here before it tries them
	@$(BIN)/cwasi demo --functions $(BUILD)/functions --input "$(INPUT)" --output "$(OUTPUT)" \
	    --report $(BUILD)/demo/report.json

.PHONY: test
test: lint test-model test-c test-faults test-fuzz test-python ## lint, model, C under sanitizers, kills, fuzzing, Python

# Tests wait for most of their time. Two at once are as many as two cores leave a processor to. A test that hangs ends
# its process, and with that the run: a new process would begin with the same test.
.PHONY: test-python
test-python: build $(GUESTS)
	$(BIN)/pytest --numprocesses 2 --dist loadfile --max-worker-restart 0

.PHONY: test-c
test-c: system
	tests/c/run.sh asan
	tests/c/run.sh tsan

.PHONY: test-model
test-model: system
	tests/model/run.sh

# LONG=long: some 1,700 kills, in half a minute.
.PHONY: test-faults
test-faults: system ## kills each side of a channel at every step (LONG=long: more often)
	tests/faults/run.sh $(LONG)

# CASES=10000000: the long form, in a quarter of an hour.
.PHONY: test-fuzz
test-fuzz: system ## a hostile peer, driven by libFuzzer for some seconds (CASES=n: so many cases of each target)
	tests/fuzz/run.sh $(CASES)

.PHONY: lint
lint: build ## ruff and mypy
	$(BIN)/ruff check .
	@# mypy wants the package as it is installed: with probes inside.
	@rm -rf $(BUILD)/typing && mkdir -p $(BUILD)/typing/cwasi_fastpath
	@ln -s $(CURDIR)/cwasi_fastpath/* $(BUILD)/typing/cwasi_fastpath/
	@ln -s $(CURDIR)/probes $(BUILD)/typing/cwasi_fastpath/probes
	cd $(BUILD)/typing && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml

.PHONY: bench
bench: build ## channels against Redis, interleaved
	$(BIN)/cwasi bench channel --html $(BUILD)/bench.html

.PHONY: install
install: system ## cwasi and cwasi-trace in $(PREFIX)/bin, where sudo finds them
	$(PYTHON) -m venv $(PREFIX)/lib/cwasi-fastpath
	$(PREFIX)/lib/cwasi-fastpath/bin/pip install --quiet .
	@$(call show_bcc,$(PREFIX)/lib/cwasi-fastpath)
	@mkdir -p $(PREFIX)/bin
	ln -sf $(PREFIX)/lib/cwasi-fastpath/bin/cwasi $(PREFIX)/lib/cwasi-fastpath/bin/cwasi-trace $(PREFIX)/bin/
	install -D -m 644 -t $(PREFIX)/share/man/man1 docs/man/*.1
	install -D -m 644 -t $(PREFIX)/share/doc/cwasi-fastpath docs/cwasi-trace_example.txt
	@mkdir -p $(dir $(BASH_COMPLETION) $(ZSH_COMPLETION) $(FISH_COMPLETION))
	@$(call complete,cwasi,_CWASI_COMPLETE)
	@$(call complete,cwasi-trace,_CWASI_TRACE_COMPLETE)

.PHONY: uninstall
uninstall: ## takes back what make install did
	rm -rf $(PREFIX)/lib/cwasi-fastpath $(PREFIX)/bin/cwasi $(PREFIX)/bin/cwasi-trace
	rm -f $(patsubst docs/man/%,$(PREFIX)/share/man/man1/%,$(wildcard docs/man/*.1))
	rm -rf $(PREFIX)/share/doc/cwasi-fastpath /var/cache/cwasi
	rm -f $(foreach name,cwasi cwasi-trace,$(BASH_COMPLETION)$(name) $(ZSH_COMPLETION)$(name) $(FISH_COMPLETION)$(name).fish)

.PHONY: clean
clean: ## removes what was built, .venv too
	rm -rf $(BUILD) $(VENV) cwasi_fastpath/*.so cwasi_fastpath/_cwasi.c *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +

# ---- set-up ----

# Only what is missing; a daemon that a package would start (Redis on its public port) stays off.
.PHONY: system
system:
	@if ! command -v apt-get >/dev/null; then \
	    for tool in $(PYTHON) gcc clang wasm-ld redis-server setpriv spin; do \
	        command -v $$tool >/dev/null || { echo "make: $$tool is missing. Install what Debian calls: $(PACKAGES)" >&2; exit 1; }; \
	    done; exit 0; \
	fi; \
	missing=$$(comm -23 <(printf '%s\n' $(PACKAGES) | sort) \
	    <(dpkg-query -W -f '$${db:Status-Abbrev} $${Package}\n' | sed -n 's/^ii *//p' | sort -u)); \
	[ -n "$$missing" ] || exit 0; \
	echo "==> system packages:" $$missing; \
	root=""; if [ "$$(id -u)" != 0 ]; then root=sudo; fi; \
	if [ ! -e /usr/sbin/policy-rc.d ]; then \
	    trap "$$root rm -f /usr/sbin/policy-rc.d" EXIT; \
	    printf '#!/bin/sh\nexit 101\n' | $$root tee /usr/sbin/policy-rc.d >/dev/null; \
	    $$root chmod 755 /usr/sbin/policy-rc.d; \
	fi; \
	$$root apt-get update -qq; \
	DEBIAN_FRONTEND=noninteractive $$root apt-get install -y -qq --no-install-recommends $$missing \
	    | grep --line-buffered -E '^(Unpacking|Setting up)' | cut -c1-100

# Debian's bcc is pure Python over libbcc.so: a directory with only a link to it shows it to any venv, and nothing else
# of the system's packages. (PyPI's bcc is an unrelated project.)
define show_bcc
if [ -d $(BCC) ]; then \
    mkdir -p $(1)/lib/bcc-only && ln -sfn $(BCC) $(1)/lib/bcc-only/bcc && \
    readlink -f $(1)/lib/bcc-only > $$(echo $(1)/lib/python3*/site-packages)/bcc-only.pth; \
fi
endef

# Where the shells look: a file for each command, as click writes it.
BASH_COMPLETION := $(PREFIX)/share/bash-completion/completions/
ZSH_COMPLETION  := $(PREFIX)/share/zsh/site-functions/_
FISH_COMPLETION := $(PREFIX)/share/fish/vendor_completions.d/
define complete
$(2)=bash_source $(PREFIX)/bin/$(1) > $(BASH_COMPLETION)$(1)
$(2)=zsh_source $(PREFIX)/bin/$(1) > $(ZSH_COMPLETION)$(1)
$(2)=fish_source $(PREFIX)/bin/$(1) > $(FISH_COMPLETION)$(1).fish
endef

$(BIN)/.ready: pyproject.toml setup.py cwasi_fastpath/_build.py $(C_SOURCES) | system
	@echo "==> $(VENV): the extension and the Python packages"
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test,bench]'
	@$(call show_bcc,$(VENV))
	@touch $@

$(BUILD)/functions/%.wasm: examples/picture/%.c $(wildcard examples/picture/*.h) cwasi_fastpath/include/cwasi.h | system
	@mkdir -p $(@D)
	@echo "==> $@"
	@$(WASM_CC) -o $@ $<

$(BUILD)/guests/%.wasm: tests/guests/%.c $(wildcard tests/guests/*.h) cwasi_fastpath/include/cwasi.h | system
	@mkdir -p $(@D)
	@$(WASM_CC) -o $@ $<
