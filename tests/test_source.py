"""Lint, formatting, types, the direction of imports, and the public names."""

import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import genkit

ROOT = Path(__file__).resolve().parent.parent

LAYERS = [  # from the ground up: a module imports only from layers below its own, or its neighbours named here
    {"errors", "durable", "interrupt"},
    {"config", "hookspecs", "callback"},
    {"registry"},
    {"rng"},
    {"interfaces", "images", "plotting", "scaffold", "diagnosis"},
    {"data", "state", "graph", "latents", "recording"},
    {"plan", "kernels"},
    {"batches"},
    {"engine", "checkpoint", "folder", "extractor"},
    {"summary", "charts"},
    {"comparison"},
    {"run"},
    {"alarm", "pictures"},
    {"loop", "console", "probe", "embedding"},
    {"evaluation", "reporting"},
    {"api"},
    {"testing"},
    {"cli"},
    {"__main__"},
]


@pytest.mark.parametrize(
    "command", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]], ids=" ".join
)
def test_tool(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
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
    level = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    for path in (ROOT / "genkit").rglob("*.py"):
        own = path.relative_to(ROOT / "genkit").parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        for name in _imported(path) & level.keys() - {own}:
            assert level[name] < level[own], f"{path} imports genkit.{name}"
    files = {path.stem for path in (ROOT / "genkit").glob("*.py")} | {"cli", "testing"}
    assert files - {"__init__"} == level.keys()


def test_core_imports_no_plugin_and_plugins_only_the_public_names() -> None:
    for path in (ROOT / "genkit").rglob("*.py"):
        assert "genkit_plugins" not in path.read_text(), path
    plugins = ROOT / "plugins" / "genkit_plugins"
    for path in set(plugins.rglob("*.py")) - {plugins / "extractors" / "train.py"}:  # a script of genkit's own makers
        assert _imported(path) <= set(genkit.__all__), path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not any(alias.name.startswith(("genkit.", "genkit_plugins")) for alias in node.names), path
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path} imports another plugin module"
                assert not (node.module or "").startswith("genkit_plugins"), path


def test_torch_free_floor() -> None:
    code = "import sys, genkit, genkit.registry, genkit.config, genkit_plugins; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_exist_and_none_is_a_module() -> None:
    modules = {module.name for module in pkgutil.iter_modules(genkit.__path__)}
    for name in genkit.__all__:
        assert getattr(genkit, name) is not None
        assert name not in modules
    declared = {
        alias.asname
        for node in ast.walk(ast.parse((ROOT / "genkit" / "__init__.py").read_text()))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    } - {None}
    assert declared == set(genkit.__all__) - {"__version__"}


def test_public_names_are_these() -> None:
    assert genkit.__all__ == (ROOT / "tests" / "public_names.txt").read_text().split()


def test_nothing_unpickles_or_executes_text() -> None:
    for folder in ("genkit", "plugins", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    called = ast.unparse(node.func)
                    assert called not in {"eval", "exec", "torch.load", "pickle.load", "pickle.loads"}, (
                        f"{path}: {called}"
                    )
