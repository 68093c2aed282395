"""One self-contained HTML page of units: their patches, projections and masks, to be searched and browsed.

Like every page of onnxvis it loads nothing, runs only its own script (named by its hash in the content security
policy) and treats every string it is given as text.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jinja2

__all__ = ["UnitCard", "UnitCell", "UnitPage", "UnitStrip", "build_unit_page", "safe_page", "shortened"]

_LONGEST = 400
# Controls and direction overrides, which could make a name read as another one.
_MISLEADING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


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


def shortened(text: str) -> str:
    """A text of any length and content as a label: the cut is visible, and so is what was meant to mislead."""
    cut = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "\N{HORIZONTAL ELLIPSIS}"
    return _MISLEADING.sub("\N{REPLACEMENT CHARACTER}", cut)


def _source(name: str) -> str:
    room = "onnxvis.render" if name == "page.css" else "onnxvis.behaviour"
    return resources.files(room).joinpath(name).read_text("utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2

    made = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FunctionLoader(_source),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(short=shortened)
    return made


def safe_page(template: str, styles: Sequence[str], script: str, values: dict[str, Any]) -> str:
    """Fill one of the package's templates with escaped values and a policy that names its only style and script.

    Args:
        template: its file name.
        styles: file names of style sheets, joined.
        script: file name of the script.
        values: for the template; every string is escaped.
    """
    from markupsafe import Markup

    style = "\n".join(_source(name) for name in styles)
    code = _source(script)
    own = {
        # Files of this package, never strings from outside.
        "style": Markup(style),  # noqa: S704
        "script": Markup(code),  # noqa: S704
        "style_hash": _hash(style),
        "script_hash": _hash(code),
    }
    return _environment().get_template(template).render(**own, **values)


def build_unit_page(page: UnitPage) -> str:
    """The page as one string of HTML, to be written as UTF-8."""
    groups: dict[str, list[UnitCard]] = {}
    for card in page.cards:
        groups.setdefault(card.group, []).append(card)
    values = {"page": page, "groups": list(groups.items())}
    return safe_page("unit_page.html", ["page.css", "unit_page.css"], "unit_page.js", values)
