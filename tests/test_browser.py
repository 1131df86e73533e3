"""Reports and comparisons in a browser: no message in the console, no request, no violation that
axe-core knows.
"""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import genkit
from genkit.report import html
from genkit.report.comparison import compare_runs
from tests.browser import CHROMIUM, Page, chromium

LOOKS = {
    "light": (1200, False),
    "dark": (1200, True),
    "phone": (390, False),
    "phone dark": (390, True),
}
OPTIONS = {
    "iterations": 30,
    "batch_size": 8,
    "log_interval": 3,
    "sample_interval": 5,
    "device": "cpu",
    "progress": False,
}

pytestmark = pytest.mark.xdist_group("browser")  # one browser, and its pages made once

if CHROMIUM is None or sys.platform == "win32":
    pytest.skip(
        "needs Chromium and its pipe: install Debian's package chromium", allow_module_level=True
    )


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, extractor_cache: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    ae = genkit.train("ae", dataset="digits", out=folder / "ae", **OPTIONS)
    gan = genkit.train("simple-gan", dataset="digits", out=folder / "gan", **OPTIONS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(extractor_cache))
        genkit.evaluate(ae, count=20)
    return {
        "report of an autoencoder": html.write_report(ae),
        "report of a GAN": html.write_report(gan),
        "comparison": html.write_comparison(
            compare_runs([ae.path, gan.path]), folder / "compare.html"
        ),
    }


@pytest.fixture(scope="module")
def axe() -> str:
    """The source of axe-core, which a package of Python's brings along."""
    found = importlib.util.find_spec("axe_core_python")
    if found is None or found.origin is None:
        pytest.skip("needs axe-core: pip install axe-core-python")
    return Path(found.origin).with_name("axe.min.js").read_text(encoding="utf-8")


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("name", ["report of an autoencoder", "report of a GAN", "comparison"])
def test_pages_are_quiet_fit_and_accessible(
    browser: Page, pages: dict[str, Path], axe: str, name: str, look: str
) -> None:
    width, dark = LOOKS[look]
    browser.open(pages[name], width=width, dark=dark)
    assert (
        browser.events_of("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        == []
    )
    requested = {
        event["request"]["url"].partition(":")[0]
        for event in browser.events_of("Network.requestWillBeSent")
    }
    assert requested <= {"file", "data"}
    assert (
        len(
            [
                t
                for t in browser.events_of("Network.requestWillBeSent")
                if t["request"]["url"].startswith("file:")
            ]
        )
        == 1
    )
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("matchMedia('(prefers-color-scheme: dark)').matches") is dark
    browser.run("for (const each of document.querySelectorAll('details')) each.open = true")
    browser.run(f"{axe}; 1")
    found = browser.run(
        "axe.run().then(r => r.violations.map(v => v.id + ': ' + v.nodes.map(n => n.html).join()))"
    )
    assert found == []
    assert browser.run("axe.run().then(r => r.passes.length)") > 10  # it did look


def test_the_slider_shows_the_grid_of_its_step(browser: Page, pages: dict[str, Path]) -> None:
    browser.open(pages["report of a GAN"])
    assert browser.run("document.getElementById('slider').hidden") is False
    assert browser.run("document.getElementById('step-name').textContent") == "30 iterations"
    browser.run("slider.focus()")
    for _ in range(2):
        browser.call(
            "Input.dispatchKeyEvent", type="keyDown", key="ArrowLeft", windowsVirtualKeyCode=37
        )
        browser.call(
            "Input.dispatchKeyEvent", type="keyUp", key="ArrowLeft", windowsVirtualKeyCode=37
        )
    assert browser.run("document.getElementById('step-name').textContent") == "20 iterations"
    assert browser.run("slider.getAttribute('aria-valuetext')") == "20 iterations"
    assert browser.run("document.getElementById('shown').alt") == "Samples after 20 iterations"
    assert browser.run("shown.src === document.querySelectorAll('#grids img')[3].src") is True


def test_without_script_all_is_there(browser: Page, pages: dict[str, Path]) -> None:
    browser.open(pages["report of a GAN"], script=False)
    hidden = browser.run("document.getElementById('slider').offsetParent === null")
    shown = browser.run("document.getElementById('shown').naturalWidth > 0")
    grids = browser.run("document.querySelectorAll('details #grids img').length")
    assert (hidden, shown, grids) == (True, True, 6)


def test_the_browser_would_see_an_error_and_a_request(browser: Page, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        "<!DOCTYPE html><title>x</title>"
        "<script>console.error('no'); nothing()</script><img src=a.png>"
    )
    browser.open(page)
    assert len(browser.events_of("Runtime.consoleAPICalled", "Runtime.exceptionThrown")) == 2
    assert any(
        event["request"]["url"].endswith("a.png")
        for event in browser.events_of("Network.requestWillBeSent")
    )


def test_the_policy_stops_script_and_style_of_others(
    browser: Page, pages: dict[str, Path], tmp_path: Path
) -> None:
    html = pages["report of a GAN"].read_text(encoding="utf-8")
    page = tmp_path / "tampered.html"
    page.write_text(
        html.replace("</main>", "<script>document.title = 'pwned'</script><img src=x.png></main>")
    )
    browser.open(page)
    assert browser.run("document.title") == "simple-gan on digits"
    assert any(
        "Content Security Policy" in event["entry"]["text"]
        for event in browser.events_of("Log.entryAdded")
    )
