"""The documentation holds together: the index names every page, and links lead somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FOREIGN = {"node_modules", "demo-report"}  # not ours, or made by running
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.M | re.S)


def is_ours(path: Path) -> bool:
    parts = path.relative_to(ROOT).parts
    return not FOREIGN.intersection(parts) and not any(part.startswith(".") for part in parts)


PAGES = sorted(page for page in ROOT.rglob("*.md") if is_ours(page))


def links(page: Path) -> Iterator[str]:
    """Where a page leads within the repository."""
    for target in LINK.findall(CODE.sub("", page.read_text())):
        if not target.startswith(("http://", "https://", "mailto:")):
            yield target


def anchors(page: Path) -> set[str]:
    """The names that its headings are reached by."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page: Path) -> None:
    lost = []
    for target in links(page):
        name, _, heading = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (heading and heading not in anchors(file)):
            lost.append(target)
    assert lost == []


@pytest.mark.parametrize("folder", [DOCS, DOCS / "decisions"], ids=["pages", "decisions"])
def test_the_index_names_every_page_and_decision(folder: Path) -> None:
    index = DOCS / "README.md"
    named = {(DOCS / target.partition("#")[0]).resolve() for target in links(index)}
    assert [page.name for page in sorted(folder.glob("*.md")) if page != index and page not in named] == []
