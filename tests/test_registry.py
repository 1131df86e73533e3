import sys
import textwrap
from pathlib import Path

import pytest

from genkit.errors import PluginError, UnknownNameError
from genkit.hookspecs import Dataset, Model
from genkit.registry import PluginWarning, discover

GOOD = """
from genkit import Model, hookimpl

@hookimpl
def genkit_models():
    return [Model("{model}", "a model", "{module}:nothing")]
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Install a distribution with one plugin module by writing its metadata."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def make(distribution: str, source: str) -> str:
        module = distribution.replace("-", "_")
        sys.modules.pop(module, None)
        (site / f"{module}.py").write_text(textwrap.dedent(source))
        info = site / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[genkit]\n{distribution} = {module}\n")
        return module

    return make


def test_builtin_names_import_no_other_plugin(install) -> None:
    module = install("third-party", GOOD.format(model="extra", module="third_party"))
    registry = discover()
    assert registry.find(Model, "simple-gan").plugin.builtin
    assert module not in sys.modules
    assert registry.find(Model, "extra").qualified_name == "third-party/extra"


def test_unknown_names_suggest(install) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'simple-gan'"):
        discover().find(Model, "simple-gam")
    with pytest.raises(UnknownNameError, match="genkit datasets"):
        discover().find(Dataset, "zzz")


def test_two_plugins_of_one_name_need_the_qualified_one(install) -> None:
    install("one-plugin", GOOD.format(model="same", module="one_plugin"))
    install("two-plugin", GOOD.format(model="same", module="two_plugin"))
    with pytest.raises(UnknownNameError, match="one-plugin/same or two-plugin/same"):
        discover().find(Model, "same")
    assert discover().find(Model, "two-plugin/same").plugin.distribution == "two-plugin"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise RuntimeError('no')", "RuntimeError: no"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import not_there", "ModuleNotFoundError"),
        ("def broken(:", "SyntaxError"),
        (GOOD.format(model="x", module="m").replace("genkit_models", "genkit_modles"), "genkit_modles"),
        (GOOD.format(model="x", module="m").replace("return [", "return ['x', "), "no genkit.Model"),
    ],
    ids=["raises", "exits", "lacks", "syntax", "mistyped", "wrong-type"],
)
def test_a_broken_plugin_costs_a_warning(install, monkeypatch, source: str, reason: str) -> None:
    install("broken-plugin", source)
    registry = discover()
    with pytest.warns(PluginWarning, match=r"broken-plugin 1\.0 was left out") as caught:
        names = [registered.entry.name for registered in registry.all(Model)]
    assert {"simple-gan", "ae", "vae"} <= set(names)
    assert reason in str(caught[0].message)
    monkeypatch.setenv("GENKIT_STRICT", "1")
    sys.modules.pop("broken_plugin", None)
    with pytest.raises(PluginError, match="left out"):
        discover().all(Model)


def test_allow_list(install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("third-party-2", GOOD.format(model="extra", module="third_party_2"))
    for value, expected in (("none", False), ("", True), ("third-party-2", True)):
        monkeypatch.setenv("GENKIT_PLUGINS", value)
        assert any(plugin.name == "third-party-2" for plugin in discover().plugins) == expected


def test_a_target_that_does_not_exist_is_one_line(install) -> None:
    install("dangling", GOOD.format(model="dangling", module="dangling"))
    with pytest.raises(PluginError, match="dangling/dangling: cannot load dangling:nothing"):
        discover().find(Model, "dangling").target()
