import sys
import textwrap
import warnings
from pathlib import Path

import pytest

import genkit
from genkit.errors import PluginError, UnknownNameError
from genkit.hookspecs import DatasetEntry, MetricEntry, ModelEntry, Samples
from genkit.plugins.plugin import PluginWarning
from genkit.plugins.registry import discover

GOOD = """
from genkit import ModelEntry, hookimpl

@hookimpl
def genkit_models():
    return [ModelEntry("{model}", "a model", "{module}:nothing")]
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
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
        )
        (info / "entry_points.txt").write_text(f"[genkit]\n{distribution} = {module}\n")
        return module

    return make


def test_builtin_names_import_no_other_plugin(install) -> None:
    module = install("third-party", GOOD.format(model="extra", module="third_party"))
    registry = discover()
    assert registry.find(ModelEntry, "simple-gan").plugin.builtin
    assert module not in sys.modules
    assert registry.find(ModelEntry, "extra").qualified_name == "third-party/extra"


def test_unknown_names_suggest(install) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'simple-gan'"):
        discover().find(ModelEntry, "simple-gam")
    with pytest.raises(UnknownNameError, match="genkit list datasets"):
        discover().find(DatasetEntry, "zzz")


def test_two_plugins_of_one_name_need_the_qualified_one(install) -> None:
    install("one-plugin", GOOD.format(model="same", module="one_plugin"))
    install("two-plugin", GOOD.format(model="same", module="two_plugin"))
    with pytest.raises(UnknownNameError, match="one-plugin/same or two-plugin/same"):
        discover().find(ModelEntry, "same")
    assert discover().find(ModelEntry, "two-plugin/same").plugin.distribution == "two-plugin"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise RuntimeError('no')", "RuntimeError: no"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import not_there", "ModuleNotFoundError"),
        ("def broken(:", "SyntaxError"),
        (
            GOOD.format(model="x", module="m").replace("genkit_models", "genkit_modles"),
            "genkit_modles",
        ),
        (
            GOOD.format(model="x", module="m").replace("return [", "return ['x', "),
            "no genkit.ModelEntry",
        ),
    ],
    ids=["raises", "exits", "lacks", "syntax", "mistyped", "wrong-type"],
)
def test_a_broken_plugin_costs_a_warning(install, monkeypatch, source: str, reason: str) -> None:
    install("broken-plugin", source)
    registry = discover()
    with pytest.warns(PluginWarning, match=r"broken-plugin 1\.0 was left out") as caught:
        names = [registered.entry.name for registered in registry.all(ModelEntry)]
    assert {"simple-gan", "ae", "vae"} <= set(names)
    assert reason in str(caught[0].message)
    monkeypatch.setenv("GENKIT_STRICT", "1")
    sys.modules.pop("broken_plugin", None)
    with pytest.raises(PluginError, match="left out"):
        discover().all(ModelEntry)


def test_allow_list(install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("third-party-2", GOOD.format(model="extra", module="third_party_2"))
    for value, expected in (("none", False), ("", True), ("third-party-2", True)):
        monkeypatch.setenv("GENKIT_PLUGINS", value)
        assert any(plugin.name == "third-party-2" for plugin in discover().plugins) == expected


def test_a_target_that_does_not_exist_is_one_line(install) -> None:
    install("dangling", GOOD.format(model="dangling", module="dangling"))
    with pytest.raises(PluginError, match="dangling/dangling: cannot load dangling:nothing"):
        discover().find(ModelEntry, "dangling").target()


def test_a_typo_in_the_allow_list_is_a_warning(install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("third-party-3", GOOD.format(model="extra", module="third_party_3"))
    monkeypatch.setenv("GENKIT_PLUGINS", "thrid-party-3")
    with pytest.warns(
        PluginWarning, match="no plugin is called 'thrid-party-3'; did you mean 'third-party-3'"
    ):
        assert [plugin.builtin for plugin in discover().plugins] == [True]


def test_aliases_and_former_names_find_an_entry(install) -> None:
    install(
        "renamed",
        GOOD.format(model="new", module="renamed").replace(
            '"renamed:nothing")',
            '"renamed:nothing", aliases=("short",), deprecated_names=("old",))',
        ),
    )
    assert discover().find(ModelEntry, "short").entry.name == "new"
    with pytest.warns(PluginWarning, match="old is now called new"):
        assert discover().find(ModelEntry, "renamed/old").entry.name == "new"


def test_a_distribution_that_is_found_twice_counts_once(
    install, tmp_path: Path, monkeypatch
) -> None:
    """As when it is installed and, from its source, installed as editable."""
    install("twice-there", GOOD.format(model="twice", module="twice_there"))
    other = tmp_path / "editable" / "Twice_There-1.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: Twice_There\nVersion: 1.1\n")
    (other / "entry_points.txt").write_text("[genkit]\ntwice-there = twice_there\n")
    monkeypatch.syspath_prepend(str(other.parent))
    assert sum(plugin.name == "twice-there" for plugin in discover().plugins) == 1
    assert discover().find(ModelEntry, "twice").entry.name == "twice"


def test_a_qualified_name_imports_one_distribution_only(install) -> None:
    install("wanted", GOOD.format(model="same", module="wanted"))
    module = install("unwanted", "raise RuntimeError('imported')")
    assert discover().find(ModelEntry, "wanted/same").entry.name == "same"
    assert module not in sys.modules


def test_one_name_twice_in_one_plugin_is_refused(install) -> None:
    install(
        "stutters", GOOD.format(model="same", module="stutters").replace("return [", "return 2 * [")
    )
    with pytest.warns(PluginWarning, match="gives the name 'same' twice"):
        discover().all(ModelEntry)


def test_nothing_of_a_plugin_that_fails_stays_imported(install, tmp_path: Path) -> None:
    install("half-way", "import half_way.part\nraise RuntimeError('no')")
    package = tmp_path / "site" / "half_way"
    package.mkdir()
    (tmp_path / "site" / "half_way.py").rename(package / "__init__.py")
    (package / "part.py").write_text("")
    with pytest.warns(PluginWarning, match="RuntimeError: no"):
        discover().all(ModelEntry)
    assert not [name for name in sys.modules if name.startswith("half_way")]


@pytest.mark.parametrize("rest", ["[genkit]\nx = x\n", "[genkit\nx", "=\n", "[genkit]\n= \n"])
def test_the_remains_of_a_distribution_break_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rest: str
) -> None:
    info = tmp_path / "remains" / "half_removed-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "entry_points.txt").write_text(rest)  # and no METADATA
    monkeypatch.syspath_prepend(str(info.parent))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PluginWarning)
        assert discover().find(ModelEntry, "simple-gan").plugin.builtin


@pytest.mark.parametrize("version", ["", "genkit_api_version = 1", "genkit_api_version = 2"])
def test_plugins_of_the_version_before_load(install, version: str) -> None:
    """With the former names of entries, which cost no warning: a warning is an error here."""
    install(
        "from-before",
        f"""
from genkit import Dataset, Metric, Model, hookimpl

{version}

@hookimpl
def genkit_models():
    return [Model("before", "a model", "from_before:nothing")]

@hookimpl
def genkit_datasets():
    return [Dataset("before", "a dataset", "from_before:nothing", extractor="from_before:path")]

@hookimpl
def genkit_metrics():
    return [Metric("before", "a metric", "from_before:nothing", of="features", limit=9)]
""",
    )
    registry = discover()
    for kind in (ModelEntry, DatasetEntry, MetricEntry):
        found = registry.find(kind, "before")
        assert isinstance(found.entry, kind)
        assert found.qualified_name == "from-before/before"
    assert isinstance(registry.find(genkit.Metric, "before").entry, genkit.Metric)
    metric = registry.find(MetricEntry, "before").entry
    assert (metric.inputs, metric.limit) == (Samples("features"), 9)
