# Two commands matter: `make demo` and `make test`. Both set the project up first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.ready

.PHONY: setup demo test check generate coverage matrix bench lock clean

setup: $(STAMP)

# The stamp is renewed when the lock or the metadata changes. Packages are compiled once at this point: each replica is a
# separate process that imports them, and would compile them again if Python cannot write its caches.
#
# The checkout itself is installed last, by a line in a `.pth` file: every process of this Python, in any folder (also Ray's
# workers), imports the server's packages and `reelgraph`, a link to clients/ kept by git, from this checkout. Pyright follows
# the `.pth` file, but not the import hook that setuptools would write for `package-dir = { reelgraph = "clients" }`.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else f"reelgraph needs Python 3.11 to 3.13; {sys.executable} is {v[0]}.{v[1]}. Name another: make PYTHON=python3.12 …")'
	@echo "setting up $(VENV) (about 5 GB of packages; a minute or so on a fast line)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --compile-bytecode -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

demo: setup
	@$(BIN)/reel demo

test: setup
	@scripts/check

check: setup
	@scripts/check --static

# Writes the requests and responses of the client, the command line and docs/requests.md from the server's definitions.
generate: setup
	@$(BIN)/python -m composition generate

coverage: setup
	@scripts/check --coverage

matrix: setup
	@scripts/check --matrix

bench: setup
	@$(BIN)/python -m benchmarks

lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
	    --all-extras --quiet pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .coverage
