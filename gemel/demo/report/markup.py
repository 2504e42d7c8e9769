"""HTML and inline SVG by composition: what is not `Html` already is escaped, so no text can become markup."""

from __future__ import annotations

import html

_VOID = frozenset({"meta", "br"})


class Html(str):
    """Text that is markup. Only this module makes it."""

    __slots__ = ()


def escape(text: object) -> Html:
    """Any value as text in a page; markup stays what it is."""
    return text if isinstance(text, Html) else Html(html.escape(str(text)))


def join(*children: object) -> Html:
    """One after the other."""
    return Html("".join(escape(child) for child in children))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """An element. `class_` becomes class, other underscores hyphens; attributes that are None are left out."""
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{shown}>" + ("" if name in _VOID else f"{join(*children)}</{name}>"))


def raw_style(css: str) -> Html:
    """A style element. For our own constants only: nothing in it is escaped."""
    return Html(f"<style>{css}</style>")


def document(language: str, head: Html, body: Html) -> Html:
    """A whole page."""
    return join(Html("<!doctype html>\n"), tag("html", tag("head", head), tag("body", body), lang=language), "\n")
