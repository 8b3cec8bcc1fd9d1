# Everything a newcomer needs: `make demo`, `make test`. Uses Python 3.11 to 3.13; override with PYTHON=python3.12.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test test-all check format docs dist bench bench-data bench-accuracy clean

demo: $(READY)  ## the whole recipe on drawn chests, in minutes
	$(BIN)/covid-xray train experiment=demo run_dir=outputs/demo

# Two tests at a time, each on one thread: tiny trainings are faster so than one after the other on all cores.
# The order of the files is that of tests/conftest.py. Compiled modules are kept, for the processes that tests start.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: $(READY)  ## tests that fit in ten minutes
	$(PYTEST) -m "not slow"

test-all: $(READY)  ## all tests
	$(PYTEST)

check: $(READY)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)  ## the documentation, in build/docs; no network is needed
	$(BIN)/sphinx-build -q -n -W --keep-going -c docs . build/docs
	@echo build/docs/index.html

# The wheel is made from the source archive, so both are tested. The new environment borrows the packages of .venv, which
# are too large to install twice, but not this checkout.
CLEAN := build/dist/bin/python
SITE := 'import sysconfig; print(sysconfig.get_path("purelib"))'

dist: $(READY)  ## source archive and wheel; in an empty environment, the wheel trains experiment=tiny
	rm -rf dist build/dist
	$(BIN)/python -m hatchling build -t sdist -d dist
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --no-cache-dir --wheel-dir dist dist/*.tar.gz
	$(BIN)/python -m venv build/dist
	$(CLEAN) -m pip install --quiet --no-deps dist/*.whl
	$(BIN)/python -c $(SITE) > "$$($(CLEAN) -c $(SITE))/packages-of-venv.pth"
	cd build/dist && bin/python -c 'import covid_xray; assert "build/dist" in covid_xray.__file__, covid_xray.__file__'
	cd build/dist && bin/covid-xray train experiment=tiny run_dir=run
	ls dist

# fastai needs an environment of its own; FASTAI_PYTHON=... names one that is there already.
FASTAI_PYTHON ?= build/fastai-venv/bin/python

bench-data: $(READY) $(FASTAI_PYTHON)  ## images per second of the input pipeline, beside fastai 2 and torchvision
	$(BIN)/python experiments/data_speed/bench.py --fastai $(FASTAI_PYTHON)

bench-accuracy: $(READY) $(FASTAI_PYTHON)  ## accuracy over time beside fastai 2: MANIFEST=... WEIGHTS=...
	$(BIN)/python experiments/recipe/bench_accuracy.py --fastai $(FASTAI_PYTHON) --manifest $(MANIFEST) --weights $(WEIGHTS)

bench: $(READY) $(FASTAI_PYTHON)  ## speed of training and evaluation beside fastai 2, a plain loop and the ceiling
	$(BIN)/python experiments/speed/bench.py --fastai $(FASTAI_PYTHON)
	$(BIN)/python experiments/speed/draw.py

build/fastai-venv/bin/python:
	$(PYTHON) -m venv build/fastai-venv
	build/fastai-venv/bin/python -m pip install --quiet 'fastai>=2.8,<2.9'

clean:
	rm -rf .venv

# Installed anew whenever the requirements change. The constraints name the versions that the tests ran with; another
# Python than the one they were written on may need others, and then takes what fits.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("covid-xray needs Python 3.11 to 3.13: make PYTHON=python3.12 ..." if not (3, 11) <= sys.version_info[:2] <= (3, 13) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)
