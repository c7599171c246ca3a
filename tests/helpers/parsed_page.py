"""A report page as its parts."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "img", "br", "hr", "input", "link"}


class ParsedPage(HTMLParser):
    """Parse a page and require that it is well-formed.

    Attributes:
        html: the source.
        tags: name and attributes of each element.
        text: all visible text.
        tables: the rows of each table, as texts of their cells.
    """

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.html, self.text = html, ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open and self._open.pop() == tag, f"</{tag}> closes something else"
        self.text += " "

    def handle_data(self, data):
        if "style" in self._open:
            return
        self.text += data
        if {"td", "th"} & set(self._open):
            self.tables[-1][-1][-1] += data.strip()

    def elements(self, tag: str) -> list[dict[str, str | None]]:
        """Attributes of each element of a kind."""
        return [attributes for name, attributes in self.tags if name == tag]


def check_page(html: str) -> ParsedPage:
    """Require a page without scripts and other files, usable by keyboard."""
    page = ParsedPage(html)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes), attributes
        for name in ("src", "href", "xlink:href"):
            link = attributes.get(name) or "#"
            assert link.startswith(("#", "data:image/")), (tag, link[:80])
            assert not link.startswith("#") or link in ("#", *(f"#{own}" for own in ids)), (tag, link)
    assert not {"script", "link", "iframe", "object", "form"} & {tag for tag, _ in page.tags}
    assert not re.search(r"https?://|@import", re.sub(r'xmlns(:xlink)?="[^"]*"', "", html))
    assert all(image["alt"] for image in page.elements("img"))
    assert all(
        region["tabindex"] == "0" and region["aria-label"] for region in page.elements("div") if region.get("role") == "region"
    )
    assert "default-src 'none'" in html and "prefers-color-scheme: dark" in html and "@media print" in html
    assert len(html.encode()) < 10_000_000
    return page
