"""What every page of genkit's has to be, whoever's names are in it."""

import base64
import hashlib
import re
from html.parser import HTMLParser

from genkit.errors import printable

ELEMENTS = """
html head meta title style script body header main footer section h1 h2 h3 p span figure figcaption
img div dl dt dd details summary table caption thead tbody tr th td pre code ul li b svg line text
path label output input
"""
ATTRIBUTES = """
lang charset http-equiv content name class id aria-label aria-labelledby aria-hidden role tabindex
src alt width height scope for type min max step value autocomplete hidden viewbox x1 x2 y1 y2 x y d
text-anchor
"""


class Page(HTMLParser):
    """Elements, attributes and texts of a page, in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.setdefault(self.elements[-1][0] if self.elements else "", []).append(data)


def check_page(html: str, name: object = "") -> Page:
    """The page's parts are those of the templates, nothing is loaded, and the policy names what is
    inside.
    """
    page = Page(html)
    assert {tag for tag, _ in page.elements} <= set(ELEMENTS.split()), f"{name!r} makes an element"
    for tag, attributes in page.elements:
        assert attributes.keys() <= set(ATTRIBUTES.split()), (
            f"{name!r} makes an attribute of {tag}: {attributes.keys()}"
        )
        if tag in ("img", "script", "style"):
            assert attributes.get("src", "data:image/").startswith("data:image/"), (
                f"{name!r} is loaded"
            )
    for line in html.split("\n"):
        assert printable(line) == line, f"{name!r} is in the page as it is"
    policies = [
        a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert len(policies) == 1
    assert "unsafe" not in policies[0]
    for tag in ("style", "script"):
        for text in re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL):
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert f"{tag}-src 'sha256-{digest}'" in policies[0]
    return page
