"""A folder has one writer at a time, and a process that was killed leaves no lock behind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from onnxvis import single_writer as module
from onnxvis.errors import OutputError
from onnxvis.single_writer import LOCK_NAME, single_writer

HOLD = """
import sys, time
from onnxvis.single_writer import single_writer
with single_writer(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_and_told_who_writes(tmp_path: Path) -> None:
    process = holder(tmp_path / "out")
    try:
        words = rf"another onnxvis \(process {process.pid} on .* since .*UTC\)"
        with pytest.raises(OutputError, match=words), single_writer(tmp_path / "out"):
            pytest.fail("two writers")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / "out" / LOCK_NAME).exists(), "the file of a killed process stays, and means nothing"
    with single_writer(tmp_path / "out"):
        pass
    assert list((tmp_path / "out").iterdir()) == []


def test_it_is_free_again_after_an_error_and_inside_one_process(tmp_path: Path) -> None:
    with single_writer(tmp_path), pytest.raises(OutputError, match=f"process {os.getpid()}"), single_writer(tmp_path):
        pass
    with pytest.raises(KeyboardInterrupt), single_writer(tmp_path):
        raise KeyboardInterrupt
    with single_writer(tmp_path), single_writer(tmp_path, ".other"):
        pass


def test_many_in_turn_are_never_two_at_once(tmp_path: Path) -> None:
    inside, most, refused = 0, 0, 0
    guard = threading.Lock()

    def work() -> None:
        nonlocal inside, most, refused
        for _ in range(40):
            try:
                with single_writer(tmp_path):
                    with guard:
                        inside += 1
                        most = max(most, inside)
                    with guard:
                        inside -= 1
            except OutputError:
                with guard:
                    refused += 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert refused < 160


def test_a_file_a_locked_folder_and_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file; name a folder"), single_writer(tmp_path / "file"):
        pass

    def refuse(_: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(module, "_lock", refuse)
    with single_writer(tmp_path / "share"):
        pass

    def broken(*_: object) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(module.os, "open", broken)
    with pytest.raises(OutputError, match="Read-only file system"), single_writer(tmp_path / "out"):
        pass
