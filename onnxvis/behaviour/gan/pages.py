"""One self-contained HTML page of tables and pictures; it loads nothing and runs no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image

from onnxvis.render.html import house_style, html_environment, own_code
from onnxvis.render.png import data_uri

__all__ = ["Figure", "Section", "Table", "build_gallery"]

_STYLE = """
figure.wide { margin: 20px 0 24px; }
figure.wide img { display: block; max-width: 100%; height: auto; border: 1px solid var(--line); border-radius: 4px; }
main h2 { margin-top: 40px; }
td.number, th.number { width: auto; }
"""


@dataclass(frozen=True, eq=False)
class Figure:
    """A picture with its caption, which is its text for those who cannot see it."""

    image: Image.Image
    caption: str


@dataclass(frozen=True)
class Table:
    """A table; the first column is text, the others stand to the right."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclass(frozen=True, eq=False)
class Section:
    """A heading with notes, tables and figures, in this order."""

    heading: str
    notes: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = field(default_factory=tuple)


def build_gallery(
    title: str, facts: Mapping[str, str], sections: Sequence[Section], notes: Sequence[str] = (), made: str = ""
) -> str:
    """The page as one string, to be written as UTF-8. Every string given is shown as text.

    Args:
        title: heading.
        facts: what the results belong to.
        sections: the results.
        notes: remarks on all of them.
        made: when and with what.
    """
    return (
        html_environment("onnxvis.behaviour.gan")
        .get_template("gallery.html")
        .render(
            **own_code(house_style() + _STYLE),
            title=title,
            facts=list(facts.items()),
            sections=sections,
            notes=notes,
            made=made,
            uri=data_uri,
        )
    )
