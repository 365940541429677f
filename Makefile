# Everything a user types. `make up` and `make test` need Python 3.11+ and a package index, nothing else.
STACK ?= dev
# Otherwise `make up stack=prod` would update the stack dev.
LOWER := $(strip $(foreach name,stack yes,$(if $(findstring command line,$(origin $(name))),$(name))))
$(if $(LOWER),$(error type $(foreach name,$(LOWER),$(if $(filter stack,$(name)),STACK=$(stack),YES=$(yes))), in capitals))
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
BIN := .venv/bin
# SIGINT is ignored until the command can handle it, because Python prints a traceback if it is interrupted while starting.
FLUX := if [ -t 0 ]; then trap '' INT; fi; $(BIN)/python -m flux_training.commands

# Each command starts several Python processes: without compiled files each would compile all that it imports, seconds every time.
unexport PYTHONDONTWRITEBYTECODE
# File names, captions and messages are UTF-8, whatever the locale says.
export PYTHONUTF8 := 1

# The largest package, and only stacks on AWS need it: installed when a stack file here names that kind of storage.
# As a submodule in a project of your own, the stack files are in the folder above. Without grep, which not every machine has.
STACK_FILES := $(wildcard Pulumi*.yaml $(if $(filter flux-training,$(notdir $(CURDIR))),../Pulumi*.yaml))
AWS := $(if $(shell cat $(STACK_FILES) </dev/null | while read -r line; do \
	case "$$line" in (*\#*kind:*) ;; (*kind:\ aws*|*kind:\ ?aws*) echo yes;; esac; done),.venv/ready-aws)
READY := .venv/ready $(AWS)

# A linked .venv belongs to another checkout, which would run this one's code if `make` here installed into it.
IS_LINKED := $(shell test -L .venv && echo yes)
define refuse_linked
test -z "$(IS_LINKED)" || { echo "error: .venv is a link to the environment of another checkout, which lacks $@;" \
	"run \`make $@\` there, or \`rm .venv\` here for an environment of its own"; exit 1; }
endef

.PHONY: up preview plan refresh destroy down cloud test test-long check packages coverage mutants bench lint audit format generated pictures licences trainer-keys lock ready aws help
# Both come as wheels for Linux and macOS; on other machines pyproject.toml leaves them out.
define lint_with
if [ -x $(BIN)/$(1) ]; then $(BIN)/$(1) $(2); \
	elif command -v $(1) >/dev/null; then $(1) $(2); \
	else echo "skipped $(1): there is no wheel of it for this machine and none on the PATH; CI runs it"; fi
endef


PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes
# uv needs seconds where pip needs a minute. It knows nothing of pip's settings: where these name an index, or uv cannot be had, pip does it.
define install
if case "$$($(BIN)/python -m pip config list 2>/dev/null)" in *index*) false;; esac && $(PIP) -r requirements/uv.lock 2>/dev/null \
	&& $(BIN)/uv pip install --quiet --no-config --system-certs --require-hashes --python $(BIN)/python -r $(1); then :; \
	else $(PIP) -r $(1); fi
endef

# The tool and its two packages as editable installs, so that `python -m localcloud` and the like work from any folder.
LINKED := --quiet --config-settings editable_mode=compat --no-deps --no-build-isolation -e . -e packages/pulumi-embedded -e packages/localcloud
define link
if [ -x $(BIN)/uv ]; then $(BIN)/uv pip install --no-config --python $(BIN)/python $(LINKED); \
	else $(BIN)/python -m pip install --disable-pip-version-check $(LINKED); fi
endef

UPGRADE ?=
COMPILE = $(BIN)/uv pip compile --quiet --no-config --universal --python-version 3.11 --no-annotate --no-emit-index-url \
	--custom-compile-command "make lock" $(UPGRADE)
SOURCES := pyproject.toml packages/pulumi-embedded/pyproject.toml packages/localcloud/pyproject.toml

.DEFAULT_GOAL := help

help: ## show this list
	@echo "To train (STACK=prod for the stack prod; ./flux --help lists all commands):"
	@awk -F ':.*## ' '/^[a-z-]+:.*[^#]## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "To change this project:"
	@awk -F ':.*### ' '/^[a-z-]+:.*### / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: $(READY) ## train the declared jobs, fetch results (YES=1: do not ask)
	@$(FLUX) up --stack $(STACK) $(if $(YES),--yes)

preview: $(READY) ## show what `make up` would do
	@$(FLUX) preview --stack $(STACK)

plan: $(READY) ## show what it would train, why, and for how many dollars
	@$(FLUX) plan --stack $(STACK)

refresh: $(READY) ## update the state to match what exists
	@$(FLUX) refresh --stack $(STACK)

destroy: $(READY) ## delete all resources; results stay
	@$(FLUX) destroy --stack $(STACK) $(if $(YES),--yes)

cloud: .venv/ready ## start the local cloud
	@$(FLUX) cloud

down: .venv/ready ## stop the local cloud; its files stay
	@$(FLUX) down

test: .venv/ready-dev ### run all tests (10 minutes)
	@$(BIN)/python -m pytest $(TESTS)

test-long: .venv/ready-dev ### run more seeds, kills and inputs (half an hour; SHARE=1/7)
	@$(BIN)/python -m pytest -m long $(if $(SHARE),--long-share=$(SHARE)) $(TESTS)

check: .venv/ready-dev ### lint, and test what changed since origin/main
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m tests.support.affected

# The tests that decide without a process: what `make coverage` and `make mutants` count.
PURE_TESTS := tests/training tests/commands/test_models.py tests/commands/test_photos.py $(wildcard tests/components/test_[cdp]*.py) \
	$(addprefix packages/pulumi-embedded/tests/test_,decisions.py deletions.py diffs.py units.py values.py)

packages: .venv/ready ### test each package alone in a new environment
	@.ci/packages

coverage: .venv/ready-dev ### measure the branch coverage of the pure core and components
	@$(BIN)/python -m pytest $(PURE_TESTS) --cov --cov-report=term
	@$(BIN)/python -m pytest tests/components --cov=components --cov-fail-under=90 --cov-report=term

mutants: .venv/ready-dev ### run mutation tests (hours; OF='training.cost.*' for a part)
	@$(BIN)/mutmut run --max-children 2 $(OF)
	@$(BIN)/python -m tests.mutation.survivors

bench: .venv/ready-dev ### measure uploads, no-ops and a thousand jobs
	@$(BIN)/python -m tests.bench

lint: .venv/ready-dev ### run all linters and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(call lint_with,hadolint,docker/Dockerfile*)
	@$(call lint_with,shellcheck,docker/*.sh flux .ci/run .ci/packages)
	@$(BIN)/zizmor --quiet --offline .github/workflows
	@.ci/actionlint

audit: .venv/ready-dev ### look up known vulnerabilities of the locked packages
	@$(BIN)/pip-audit --disable-pip --require-hashes --progress-spinner off -r requirements/dev.lock

format: .venv/ready-dev ### let ruff fix and format the code
	@$(BIN)/ruff check --fix -q .
	@$(BIN)/ruff format .

generated: .venv/ready ### write the generated schemas and documents
	@$(BIN)/python -m flux_training.commands.generate

pictures: .venv/ready-dev ### renew docs/pictures from the stack dev; needs Chromium
	@$(BIN)/python -m tests.support.pictures

trainer-keys: .venv/ready-dev ### compare the table of keys with ai-toolkit (CHECKOUT=DIR)
	@$(BIN)/python -m tests.real.compare_keys $(CHECKOUT)

licences: .venv/ready-dev ### write docs/licences.md from the installed packages
	@$(BIN)/pip-licenses --from=mixed --format=markdown --ignore-packages flux-training pulumi-embedded localcloud --output-file=docs/licences.md

lock: .venv/ready-dev ### pin all dependencies with hashes (UPGRADE=--upgrade)
	@$(COMPILE) --generate-hashes $(SOURCES) --group dev --extra aws -o requirements/dev.lock
	@$(COMPILE) --generate-hashes $(SOURCES) --group build -c requirements/dev.lock -o requirements/local.lock
	@echo pulumi-aws | $(COMPILE) --generate-hashes - -c requirements/dev.lock -o requirements/aws.lock
	@$(COMPILE) --generate-hashes --group uv -c requirements/dev.lock -o requirements/uv.lock
	@$(COMPILE) --generate-hashes --group export -c requirements/dev.lock -o requirements/export.lock
	@$(COMPILE) --no-deps pyproject.toml packages/localcloud/pyproject.toml --extra aws -c requirements/dev.lock -o requirements.txt

ready: $(READY) ## make or update the virtual environment

aws: .venv/ready-aws ## install what stacks on AWS need

# SIGINT is ignored here, because venv and pip would print tracebacks at Ctrl-C. Make ends when they have ended, seconds later.
.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found; install one, or say make PYTHON=/path/to/python"; exit 1; }
	@echo "Making the virtual environment .venv with $(PYTHON) ..."
	@trap '' INT; $(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.venv/ready: $(if $(IS_LINKED),,.venv/bin/python requirements/local.lock $(SOURCES))
	@$(refuse_linked)
	@echo "Installing the packages of requirements/local.lock into it (once; 300 MB, 10 to 60 seconds) ..."
	@$(call install,requirements/local.lock)
	@$(call link)
	@touch $@

.venv/ready-aws: .venv/ready $(if $(IS_LINKED),,requirements/aws.lock)
	@$(refuse_linked)
	@echo "Installing pulumi-aws, which stacks on AWS need (once; 180 MB) ..."
	@$(call install,requirements/aws.lock)
	@touch $@

.venv/ready-dev: .venv/ready $(if $(IS_LINKED),,requirements/dev.lock)
	@$(refuse_linked)
	@echo "Installing what tests and lint need (once; 700 MB) ..."
	@$(call install,requirements/dev.lock)
	@touch $@
