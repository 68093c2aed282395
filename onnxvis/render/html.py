"""What every page shares: one file that loads nothing, runs only its own script, and shows every string as text.

A page is a template of this package that begins with ``{% include "head.html" %}``. Its content security policy forbids
every connection, every picture that is not part of the page, and every style and script but the two that it names by
their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from importlib import resources
from typing import TYPE_CHECKING, Any

from onnxvis.render.colormap import NEUTRAL

if TYPE_CHECKING:
    import jinja2
    from markupsafe import Markup

__all__ = ["house_style", "html_environment", "json_block", "own_code", "packaged", "readable"]

_HERE = "onnxvis.render"
# Controls and direction overrides, which could make a label read as another one, and halves of characters, which
# cannot be written; joiners are left alone.
_MISLEADING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def readable(text: object, longest: int = 400) -> str:
    """Text of any length and content as a label: cuts are visible, and so is what was meant to mislead."""
    whole = str(text)
    cut = whole if len(whole) <= longest else whole[: longest - 1] + "\N{HORIZONTAL ELLIPSIS}"
    return _MISLEADING.sub("\N{REPLACEMENT CHARACTER}", cut)


def packaged(name: str, package: str = _HERE) -> str:
    """The text of a file of this package."""
    return resources.files(package).joinpath(name).read_text("utf-8")


def house_style(name: str = "page.css", package: str = _HERE) -> str:
    """A style sheet of this package, with the ground on which layered pictures stand filled in."""
    return packaged(name, package).replace("$neutral", "#{:02x}{:02x}{:02x}".format(*NEUTRAL))


def own_code(style: str, script: str = "") -> dict[str, Any]:
    r"""The values of ``head.html``: style, script and their hashes.

    Args:
        style: CSS made of files of this package and of base64 text, never of strings from outside. Lines end with
            ``\n``, since what the browser hashes must be what is hashed here.
        script: JavaScript, a file of this package; left out, the page runs none.
    """
    from markupsafe import Markup

    return {
        "style": Markup(style),  # noqa: S704
        "script": Markup(script),  # noqa: S704
        "style_hash": _hash(style),
        "script_hash": _hash(script) if script else None,
    }


def json_block(data: Any) -> Markup:
    """JSON for a data block of a page: no character in it can end the block or begin a tag.

    Raises:
        ValueError: it holds NaN or infinity.
    """
    from markupsafe import Markup

    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 - ASCII without markup, as made above


def html_environment(package: str = _HERE, **filters: Callable[..., Any]) -> jinja2.Environment:
    """Templates of a package and of this one; everything is escaped, and what is missing is an error.

    Args:
        package: where the templates lie.
        filters: beside ``readable``, which every template has.
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FunctionLoader(lambda name: packaged(name, _HERE if name == "head.html" else package)),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(readable=readable, **filters)
    return environment


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return "sha256-" + base64.b64encode(digest).decode("ascii")
