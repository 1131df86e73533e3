# What CI runs, and what a developer runs: the same recipes.

# Tests, with lint, formatting and types among them (tests/test_source.py), on all cores.
test *args:
    pytest {{args}}

lint:
    ruff check .
    ruff format --check .
    mypy

format:
    ruff check --fix .
    ruff format .

# The CLI reference in docs/cli.md, generated from the program.
docs:
    python -m tests.cli_reference

# Iterations a second beside what a user would pick instead, in turn in one session.
bench *args:
    python -m benchmarks {{args}}

# What a run survives, at full size: kills, signals, failing disks, power cuts, hostile files and
# names (half an hour).
stress *args:
    python -m tests.stress {{args}}

# The engines' tests on the oldest torch that pyproject.toml promises, in a fresh environment.
oldest *args:
    bash .ci/oldest {{args}}

ci:
    bash .ci/run
