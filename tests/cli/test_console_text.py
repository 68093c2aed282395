"""What strings from outside look like in the terminal."""

from __future__ import annotations

import pytest

from onnxvis.cli.console import out, say_error


def test_names_and_labels_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    say_error("a:x:b [bold]:smile:.png\x1b[31m")
    out.print("label :warning: of a picture")
    said = capsys.readouterr()
    assert said.err == "error: a:x:b [bold]:smile:.png\N{REPLACEMENT CHARACTER}[31m\n"
    assert said.out == "label :warning: of a picture\n"
