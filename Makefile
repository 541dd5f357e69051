# make install   the .venv with everything pinned
# make demo      the main job on this machine, in a few minutes
# make test      every test, those against a real SLURM included

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin

.PHONY: install demo test lint clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	@echo "installing the pinned packages into $(VENV): some minutes"
	$(RUN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,tensorboard]'
	touch $@

demo: install
	$(RUN)/mvdiff demo

lint: install
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

# test processes share the cores: a second thread of one would only wait for a core that another has
test: export OMP_NUM_THREADS = 1
test: lint
	$(RUN)/pytest -n 3 -m 'not cluster'
	$(RUN)/pytest -n 3 --dist loadgroup --no-loadscope-reorder -m cluster

clean:
	rm -rf $(VENV) runs build *.egg-info
