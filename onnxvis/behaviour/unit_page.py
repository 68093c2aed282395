"""One self-contained HTML page of units: their patches, projections and masks, to be searched and browsed.

Like every page of onnxvis it loads nothing, runs only its own script (named by its hash in the content security
policy) and treats every string it is given as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from onnxvis.render.html import house_style, html_environment, own_code, packaged

__all__ = ["UnitCard", "UnitCell", "UnitPage", "UnitStrip", "build_unit_page", "safe_page"]

_HERE = "onnxvis.behaviour"


@dataclass(frozen=True)
class UnitCell:
    """One small picture: a data address, what it shows in words, a line under it, and lines of detail."""

    uri: str
    alt: str
    caption: str = ""
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class UnitStrip:
    """Small pictures of one kind beside each other."""

    name: str
    cells: tuple[UnitCell, ...]


@dataclass(frozen=True)
class UnitCard:
    """A unit (or a unit with a concept).

    Attributes:
        group: what it stands under, a layer or a concept.
        heading: for example "unit 12".
        number: the unit, for the search.
        about: a line under the heading.
        strips: its pictures.
        words: further words to be found by.
    """

    group: str
    heading: str
    number: int
    about: str
    strips: tuple[UnitStrip, ...]
    words: str = ""


@dataclass(frozen=True)
class UnitPage:
    """A page: title, facts as (name, value) pairs, notes, and cards in the order they are shown."""

    title: str
    facts: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    cards: tuple[UnitCard, ...]
    made: str = ""


def safe_page(template: str, styles: Sequence[str], script: str, title: str, values: dict[str, Any]) -> str:
    """Fill one of this room's templates.

    Args:
        template: its file name.
        styles: file names of style sheets that follow the house's.
        script: file name of the script.
        title: of the page.
        values: for the template; every string is escaped.
    """
    style = "\n".join([house_style(), *(packaged(name, _HERE) for name in styles)])
    own = own_code(style, packaged(script, _HERE))
    return html_environment(_HERE).get_template(template).render(**own, title=title, **values)


def build_unit_page(page: UnitPage) -> str:
    """The page as one string of HTML, to be written as UTF-8."""
    groups: dict[str, list[UnitCard]] = {}
    for card in page.cards:
        groups.setdefault(card.group, []).append(card)
    values = {"page": page, "groups": list(groups.items())}
    return safe_page("unit_page.html", ["unit_page.css"], "unit_page.js", page.title, values)
