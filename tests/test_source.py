"""Lint, formatting, types, the direction of imports, and the public names."""

import ast
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import genkit

ROOT = Path(__file__).resolve().parent.parent

ROOMS = """
__main__; cli; testing; api; report; training; evaluation; engines run; run_info; data;
models storage; interfaces; updates; plugins; config hookspecs callback rng processes; errors
"""
"""From the top down: a room imports only from rooms behind a later semicolon, or within itself."""


@pytest.mark.long
@pytest.mark.parametrize(
    "command", [["mypy"], ["ruff", "check", "."], ["ruff", "format", "--check", "."]], ids=" ".join
)
def test_tool(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _imported(path: Path) -> set[str]:
    """Modules of genkit that a file imports anywhere in it, without the prefix."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            names |= {f"{module}.{alias.name}" for alias in node.names} | {module}
    return {name.split(".")[1] for name in names if name.startswith("genkit.")}


def test_imports_point_one_way() -> None:
    levels = [floor.split() for floor in ROOMS.split(";")]
    level = {room: number for number, floor in enumerate(levels) for room in floor}
    for path in (ROOT / "genkit").rglob("*.py"):
        home = path.relative_to(ROOT / "genkit").parts[0].removesuffix(".py")
        for room in _imported(path) - {home, "__version__"} if home != "__init__" else ():
            assert level[home] < level[room], f"{path} imports genkit.{room}"


def test_core_imports_no_plugin_and_plugins_only_the_public_names() -> None:
    for path in (ROOT / "genkit").rglob("*.py"):
        assert "genkit_plugins" not in path.read_text(), path
    plugins = ROOT / "plugins" / "genkit_plugins"
    made_with = plugins / "extractors" / "train.py"  # a script for those who develop genkit
    for path in set(plugins.rglob("*.py")) - {made_with}:
        assert _imported(path) <= set(genkit.__all__), path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not any(
                    alias.name.startswith(("genkit.", "genkit_plugins")) for alias in node.names
                ), path
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path} imports another plugin module"
                assert not (node.module or "").startswith("genkit_plugins"), path


def test_a_rooms_init_is_empty_or_a_list_of_names() -> None:
    for path in (ROOT / "genkit").glob("*/**/__init__.py"):
        for statement in ast.parse(path.read_text()).body:
            match statement:
                case ast.Expr(ast.Constant()) | ast.ImportFrom():
                    pass
                case ast.Assign([ast.Name("__all__")]):
                    pass
                case _:
                    pytest.fail(f"{path}: {ast.unparse(statement)}")


def test_torch_free_floor() -> None:
    floor = "genkit, genkit.plugins.registry, genkit.config, genkit_plugins"
    code = f"import sys, {floor}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_resolves_where_imports_are_eager() -> None:
    code = "import sys, genkit; assert 'genkit.api' in sys.modules"
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "EAGER_IMPORT": "1"}
    )


def test_public_names_exist_and_none_is_a_module() -> None:
    modules = {module.name for module in pkgutil.iter_modules(genkit.__path__)}
    for name in genkit.__all__:
        assert getattr(genkit, name) is not None
        assert name not in modules


def test_public_names_are_these() -> None:
    assert genkit.__all__ == (ROOT / "tests" / "public_names.txt").read_text().split()


FORBIDDEN = {"eval", "exec", "torch.load", "pickle.load", "pickle.loads"}


def test_nothing_unpickles_or_executes_text() -> None:
    for folder in ("genkit", "plugins", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    assert ast.unparse(node.func) not in FORBIDDEN, f"{path}:{node.lineno}"
