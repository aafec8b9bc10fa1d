# make demo   makes the environment and runs the main job: train, evaluate, pictures
# make test   makes the environment if it is not there and runs the tests; ARGS= are pytest's
# make test-fast   without the slow ones, within 3 minutes of 2 cores
# make coverage    all tests, and which lines and branches of the package they never reach
# make lint   checks form and types
# make weight   lines and files of the package by folder, and lines of the tests
# make env    makes the environment alone; tools/setup_env.sh tells what PYTHON=, TORCH= and
#             DETECTRON2= choose
# make clean  removes what the tools left, but not the environment and no output

VENV ?= .venv
OUTPUT ?= output/demo

export PYTHON TORCH DETECTRON2
# Without bytecode on the disk, each process compiles all that it imports of torch: 10 seconds.
unexport PYTHONDONTWRITEBYTECODE

python := $(VENV)/bin/python
# In the order of tests/conftest.py: what takes long is not to begin last.
pytest := $(python) -m pytest -n 2 --dist loadfile --no-loadscope-reorder
ready := $(VENV)/ready
chosen := $(strip $(PYTHON) $(TORCH) $(DETECTRON2))

.PHONY: demo test test-fast coverage lint weight env clean FORCE

demo: env
	$(python) train_net.py --config-file configs/mini/sam_detr_smca.py train.output_dir=$(OUTPUT)
	$(python) tools/report.py $(OUTPUT)

test: env
	$(pytest) $(ARGS)

test-fast: env
	$(pytest) -m "not slow" $(ARGS)

coverage: env
	$(pytest) --cov --cov-fail-under=95 $(ARGS)

lint: env
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy

weight:
	@python3 tools/weight.py

env: $(ready)

$(ready): tools/setup_env.sh $(wildcard requirements/*.txt) setup.cfg pyproject.toml
	bash tools/setup_env.sh $(VENV)
	echo '$(chosen)' > $@

# A choice that is named and is not what the environment was made with makes it again.
ifneq ($(chosen),)
ifneq ($(chosen),$(shell cat $(ready) 2>/dev/null))
$(ready): FORCE
endif
endif

clean:
	rm -rf build dist .coverage* .mypy_cache .pytest_cache .ruff_cache projects/SAMDETR/*.egg-info
	find configs projects tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
