"""One self-contained HTML page of tables and pictures; it loads nothing and runs no script."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING

from PIL import Image

from onnxvis.render.png import data_uri

if TYPE_CHECKING:
    import jinja2

__all__ = ["Figure", "Section", "Table", "build_gallery"]

_LONGEST = 600
_STYLE = """
figure.wide { margin: 20px 0 24px; }
figure.wide img { display: block; max-width: 100%; height: auto; border: 1px solid var(--line); border-radius: 4px; }
main h2 { margin-top: 40px; }
td.number, th.number { width: auto; }
"""
_TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src '{{ style_hash }}'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>{{ title | short }}</title>
<style>{{ style }}</style>
</head>
<body>
<header class="top">
<h1><bdi>{{ title | short }}</bdi></h1>
<dl class="facts">
{% for name, value in facts %}
<div><dt><bdi>{{ name | short }}</bdi></dt><dd><bdi>{{ value | short }}</bdi></dd></div>
{% endfor %}
</dl>
{% for note in notes %}
<p class="note"><bdi>{{ note | short }}</bdi></p>
{% endfor %}
</header>
<main>
{% for section in sections %}
<section>
<h2><bdi>{{ section.heading | short }}</bdi></h2>
{% for note in section.notes %}
<p class="note"><bdi>{{ note | short }}</bdi></p>
{% endfor %}
{% for table in section.tables %}
<div class="table"><table>
{% if table.caption %}
<caption>{{ table.caption | short }}</caption>
{% endif %}
<thead><tr>{% for cell in table.head %}<th{% if not loop.first %} class="number"{% endif %}>{{ cell | short }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in table.rows %}
<tr>{% for cell in row %}<td{% if not loop.first %} class="number"{% endif %}><bdi>{{ cell | short }}</bdi></td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endfor %}
{% for figure in section.figures %}
<figure class="wide"><img src="{{ uri(figure.image) }}" width="{{ figure.image.width }}" height="{{ figure.image.height }}" alt="{{ figure.caption | short }}"><figcaption><bdi>{{ figure.caption | short }}</bdi></figcaption></figure>
{% endfor %}
</section>
{% endfor %}
</main>
<footer class="bottom"><p><bdi>{{ made | short }}</bdi></p></footer>
</body>
</html>
"""  # noqa: E501


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
    from markupsafe import Markup

    # The neutral ground is only used by layered pictures, of which there are none here.
    style = resources.files("onnxvis.render").joinpath("page.css").read_text("utf-8").replace("$neutral", "#f3f2ef")
    style += _STYLE
    digest = base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii")
    return (
        _environment()
        .from_string(_TEMPLATE)
        .render(
            title=title,
            facts=list(facts.items()),
            sections=sections,
            notes=notes,
            made=made,
            style=Markup(style),  # noqa: S704 - a file of this package
            style_hash=f"sha256-{digest}",
            uri=data_uri,
        )
    )


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(short=_short)
    return environment


def _short(text: object) -> str:
    shown = str(text)
    return shown if len(shown) <= _LONGEST else shown[: _LONGEST - 1] + "\N{HORIZONTAL ELLIPSIS}"
