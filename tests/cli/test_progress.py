"""What a terminal shows while work goes on: how much, how fast, what failed, and the time left."""

from __future__ import annotations

import io
import re
import time

import pytest
from rich.console import Console

from onnxvis.cli import console
from onnxvis.progress import StageClock, report_failed, silent


@pytest.mark.parametrize(
    ("speed", "text"),
    [
        (None, ""),
        (0.0, ""),
        (0.25, "4 s each"),
        (0.003, "333 s each"),
        (1.5, "1.5/s"),
        (45.67, "45.7/s"),
        (1234.5, "1,234/s"),
    ],
)
def test_pace_in_few_characters(speed: float | None, text: str) -> None:
    assert console.pace_text(speed) == text


@pytest.mark.parametrize("width", [80, 120])
def test_a_bar_fits_and_says_pace_failures_and_time_left(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=stream, force_terminal=True, width=width, legacy_windows=False))
    clock = [100.0]
    with console.progress_bar() as progress:
        bar = progress._bar  # type: ignore[attr-defined]
        bar.get_time = lambda: clock[0]
        report_failed(progress, "predictions", 9)  # of a stage that nobody began
        for done in range(500, 1001, 100):  # half of it was done before
            progress("predictions", done, 2000)
            report_failed(progress, "predictions", done // 300)
            clock[0] += 50
        bar.refresh()
        shown = bar.get_renderable()
        plain = Console(file=io.StringIO(), width=width, color_system=None)
        plain.print(shown)
        lines = [line.rstrip() for line in plain.file.getvalue().splitlines() if line.strip()]  # type: ignore[attr-defined]
    assert len(lines) == 1
    assert len(lines[0]) <= width
    assert re.search(r"^predictions .* 1000/2000 2/s .*left 0:08:20 3 failed$", lines[0])


def test_no_terminal_and_quiet_show_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    for terminal, quiet in ((False, False), (True, True)):
        monkeypatch.setattr(console, "err", Console(file=stream, force_terminal=terminal))
        with console.progress_bar(quiet) as progress:
            assert progress is silent
            progress("pictures", 1, 2)
            report_failed(progress, "pictures", 1)
    assert stream.getvalue() == ""


def test_a_clock_adds_up_stages() -> None:
    clock = StageClock({"a": 1.0})
    time.sleep(0.02)
    clock.stop("a")
    time.sleep(0.02)
    clock.start()
    clock.stop("b")
    assert 1.02 <= clock.stages["a"] < 1.5
    assert clock.stages["b"] < 0.02
