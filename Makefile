# GNU make 3.81 or later. `make` alone lists what there is to make.

ifneq ($(strip $(MAKEFILE_LIST)),Makefile)
$(error this Makefile makes things in its own folder: name that with make -C)
endif

PROFILE_GIVEN := $(filter-out undefined,$(origin PROFILE))
PROFILE ?= standard
PYTHONS = $(if $(PYTHON),"$$PYTHON",python3.13 python3.12 python3.11 python3)
SUPPORTED = import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

# What the user says reaches the shell in the environment alone, and as it was typed: no part of it
# is a command to a shell, or a variable to make.
GIVEN = PROFILE SEEDS JOBS FRESH PYTHON NETWORK CHECKPOINT TEST IMG DIR CSV DATA_DIR MIRROR
$(foreach name,$(GIVEN),$(if $(filter undefined,$(origin $(name))),,\
  $(eval override $(name) := $$(value $(name)))$(eval export $(name))))

# A relative path counts from the folder that the user's shell is in, which `make -C` leaves: the
# commands are told it, since the shells that start them set PWD anew. The command takes the shell's
# place, so that what ends make ends it too.
export CALLER := $(or $(value PWD),$(CURDIR))
PYTHON_HERE = exec env PWD="$$CALLER" .venv/bin/python
MIDAS = $(PYTHON_HERE) -P -m midas_lib
REPORT = $(MIDAS) report --profile "$$PROFILE" $(if $(SEEDS),--seeds "$$SEEDS") \
  $(if $(JOBS),--jobs "$$JOBS") $(if $(filter-out 0,$(FRESH)),--fresh)
READER = $(if $(NETWORK),--network="$$NETWORK") $(if $(CHECKPOINT),--checkpoint="$$CHECKPOINT")

.DEFAULT_GOAL := help
.PHONY: help env data reports part1 part2 part3 pages bench evaluate predict audit relabel lab \
  test fuzz faults lint clean

help: ## this list
	@echo "make TARGET [VARIABLE=value ...]"
	@echo
	@sed -n 's/^\([a-z0-9]*\):.*## \(.*\)/\1|\2/p' Makefile \
	  | while IFS='|' read -r name about; do printf '  %-10s %s\n' "$$name" "$$about"; done
	@echo
	@echo "  PROFILE=smoke|standard|full   how much to compute (default standard)"
	@echo "  SEEDS=5  JOBS=2               how many repeats, how many runs at once"
	@echo "  FRESH=1                       ignore finished runs"
	@echo "  DATA_DIR=folder               where the archives lie (default data/)"
	@echo "  MIRROR=folder or URL          where to look for the archives next"
	@echo "  STANDIN=1                     use data drawn by the program"
	@echo "  PYTHON=python3.12             what to make the environment with (3.11 to 3.13)"
	@echo "  ARGS='-p name value'          anything more for the command, as a notebook's parameter"

# The stamp holds what the environment was made from, and is written last: an environment whose
# making was interrupted, or whose requirements have changed since, is completed. So is one that a
# link shares with another checkout: the library that is installed in it is that of one folder.
env: ## make the environment, .venv/, or bring it up to date
	@if ! .venv/bin/python -c '' 2>/dev/null; then \
	  for python in $(PYTHONS) ''; do \
	    if "$$python" -c 'import ensurepip, venv; $(SUPPORTED)' 2>/dev/null; then break; fi; done; \
	  if [ -z "$$python" ]; then \
	    echo "make: found no Python 3.11, 3.12 or 3.13 with its venv module, trying" $(PYTHONS) \
	      "- install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 2; fi; \
	  echo "==> making the environment in .venv with $$("$$python" --version)" >&2; \
	  if [ -L .venv ]; then mkdir -p "$$(readlink .venv)"; fi; \
	  rm -f .venv/requirements.cksum .venv/bin/python*; \
	  "$$python" -m venv .venv || exit; \
	elif ! .venv/bin/python -c '$(SUPPORTED)'; then \
	  echo "make: .venv has $$(.venv/bin/python --version), which is not 3.11 to 3.13: remove it" >&2; \
	  exit 2; \
	fi; \
	wanted=$$(cat requirements.txt constraints.txt pyproject.toml | cksum; pwd -P); \
	if [ "$$(cat .venv/requirements.cksum 2>/dev/null)" != "$$wanted" ]; then \
	  echo "==> installing what requirements.txt names (the first time takes some minutes)" >&2; \
	  rm -f .venv/requirements.cksum; \
	  .venv/bin/python -m pip --version >/dev/null 2>&1 || .venv/bin/python -m ensurepip >&2 || exit; \
	  .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt >&2 \
	    && echo "$$wanted" > .venv/requirements.cksum; \
	fi

data: env ## get the archives, or say where each lies
	@echo "==> looking for the archives" >&2
	@$(MIDAS) fetch --profile "$$PROFILE" $(ARGS)

reports: env ## all reports and their index
	@echo "==> making the reports, profile $$PROFILE" >&2
	@$(REPORT) $(ARGS)

part1: env ## the report of part 1: 62 characters
	@echo "==> making the report of part 1, profile $$PROFILE" >&2
	@$(REPORT) 1 $(ARGS)

part2: env ## the report of part 2: what a pre-trained start is worth on MNIST
	@echo "==> making the report of part 2, profile $$PROFILE" >&2
	@$(REPORT) 2 $(ARGS)

part3: env ## the report of part 3: every label is wrong
	@echo "==> making the report of part 3, profile $$PROFILE" >&2
	@$(REPORT) 3 $(ARGS)

pages: env ## draw the published pages anew from their results files, without training
	@echo "==> drawing the pages from executed/results" >&2
	@$(MIDAS) pages $(ARGS)

bench: env ## how fast it is beside others: [SEEDS=repeats] [ARGS="section ... --torch PYTHON"]
	@echo "==> measuring; leave the machine alone meanwhile" >&2
	@$(PYTHON_HERE) -m bench $(if $(PROFILE_GIVEN),--profile "$$PROFILE") \
	  $(if $(SEEDS),--repeats "$$SEEDS") $(ARGS)

evaluate: env ## measure a network: TEST=folder or zip [NETWORK=digits] [ARGS=--hands]
	@if [ -z "$$TEST" ]; then echo "make: say what to test on: make evaluate TEST=path" >&2; exit 2; fi
	@echo "==> evaluating on $$TEST" >&2
	@$(MIDAS) evaluate --test="$$TEST" $(READER) $(ARGS)

audit: env ## find out what is wrong with labels: DIR=folder or zip, a folder a class
	@if [ -z "$$DIR" ]; then echo "make: say what to audit: make audit DIR=path" >&2; exit 2; fi
	@echo "==> auditing $$DIR" >&2
	@$(MIDAS) audit $(ARGS) -- "$$DIR"

relabel: env ## label wrongly filed pictures anew: DIR=folder or zip CSV=file
	@if [ -z "$$DIR" ] || [ -z "$$CSV" ]; then \
	  echo "make: say what to relabel, and where to: make relabel DIR=path CSV=file" >&2; exit 2; fi
	@echo "==> relabelling $$DIR" >&2
	@$(MIDAS) relabel --csv="$$CSV" $(ARGS) -- "$$DIR"

predict: env ## read characters: IMG="image ..." [NETWORK=digits]
	@if [ -z "$$IMG" ]; then echo "make: say what to read: make predict IMG=path" >&2; exit 2; fi
	@echo "==> reading $$IMG" >&2
	@checkout=$$PWD; cd "$$CALLER"; [ -e "$$IMG" ] && set -- "$$IMG" || set -- $$IMG; \
	cd "$$checkout"; $(MIDAS) predict $(READER) $(ARGS) -- "$$@"

lab: env ## open the notebooks in Jupyter
	@echo "==> starting Jupyter" >&2
	@PYTHONPATH="$$PWD" $(PYTHON_HERE) -m jupyterlab --notebook-dir=notebooks $(ARGS)

test: env ## run the tests, side by side on all cores
	@echo "==> running the tests" >&2
	@.venv/bin/python -m pytest -n auto --dist loadscope --no-loadscope-reorder $(ARGS)

fuzz: env ## feed damaged files to what reads them: FUZZ=300 of each kind
	@echo "==> feeding damaged files" >&2
	@FUZZ=$${FUZZ:-300} .venv/bin/python -m pytest -s tests/test_fuzz.py $(ARGS)

faults: env ## kill studies at random moments, KILLS=50 times, and compare what they find
	@echo "==> killing studies" >&2
	@KILLS=$${KILLS:-50} .venv/bin/python -m pytest -s tests/test_faults.py $(ARGS)

lint: env ## check style and formatting
	@echo "==> checking style" >&2
	@.venv/bin/python -m ruff check .
	@.venv/bin/python -m ruff format --check .

clean: ## delete unpublished pages and caches; data, finished runs and .venv stay
	@echo "==> deleting unpublished pages and caches" >&2
	@rm -rf executed/smoke executed/standard executed/full executed/failed .pytest_cache .ruff_cache \
	  build *.egg-info
	@find midas_lib bench tests notebooks -name __pycache__ -o -name .ipynb_checkpoints \
	  | while IFS= read -r folder; do rm -rf "$$folder"; done
