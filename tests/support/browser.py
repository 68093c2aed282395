"""A headless Chromium for tests: pages are opened, clicked, typed into and photographed as a person would.

It speaks the DevTools protocol over a pipe (file descriptors 3 and 4 of the browser), so that no port is opened and
no further package is needed. Where no Chromium is found, the test is skipped, with the reason.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Page", "browser_path", "open_page"]

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-extensions"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--mute-audio"),
    *("--disable-dev-shm-usage", "--force-color-profile=srgb", "--remote-debugging-pipe"),
)
# The browser wants its pipe at descriptors 3 and 4, which are taken here.
_LAUNCH = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)
_KEYS = {
    "Enter": (13, "\r"),
    "Tab": (9, ""),
    "Escape": (27, ""),
    "Backspace": (8, ""),
    "Delete": (46, ""),
    "End": (35, ""),
    "Home": (36, ""),
    "ArrowLeft": (37, ""),
    "ArrowUp": (38, ""),
    "ArrowRight": (39, ""),
    "ArrowDown": (40, ""),
    "PageUp": (33, ""),
    "PageDown": (34, ""),
    "Space": (32, " "),
}


def browser_path() -> str:
    """Where the browser is; the test is skipped where there is none."""
    for name in _NAMES:
        path = shutil.which(name)
        if path:
            return path
    pytest.skip(f"no Chromium found on this machine ({', '.join(_NAMES)})")


class Page:
    """One page in one browser of its own. Made by :func:`open_page`.

    Attributes:
        errors: what the page logged as an error: exceptions, ``console.error``, violations of its policy.
        requests: addresses that it asked for, the page's own file first; ``data:`` addresses are not listed.
    """

    def __init__(self, width: int, height: int, timeout: float = 120.0) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._timeout = timeout
        self._count = 0
        self._closed = False
        self._buffer = b""
        self._events: set[str] = set()
        self._session: str | None = None
        self._profile = tempfile.mkdtemp(prefix="onnxvis-browser-")
        ours, theirs = os.pipe(), os.pipe()
        command = [sys.executable, "-S", "-E", "-c", _LAUNCH, str(ours[0]), str(theirs[1]), browser_path(), *_FLAGS]
        command += [f"--user-data-dir={self._profile}", f"--window-size={width},{height}", "about:blank"]
        self._process = subprocess.Popen(
            command, pass_fds=(ours[0], theirs[1]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(ours[0])
        os.close(theirs[1])
        self._write, self._read = ours[1], theirs[0]
        try:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
            self.resize(width, height)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Page:
        """The page itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    # --- what a person does ----------------------------------------------------------------------

    def goto(self, address: str) -> None:
        """Open an address and wait until it is loaded."""
        self._events.discard("Page.loadEventFired")
        answer = self.call("Page.navigate", url=address)
        assert "errorText" not in answer, answer
        if "loaderId" in answer:  # else only the fragment changed
            self._wait_for_event("Page.loadEventFired")

    def click(self, selector: str, count: int = 1) -> None:
        """Click the middle of the first element that matches; it must be visible and not covered."""
        x, y = self.place(selector)
        self.mouse("mouseMoved", x, y)
        for number in range(1, count + 1):
            self.mouse("mousePressed", x, y, number)
            self.mouse("mouseReleased", x, y, number)

    def hover(self, selector: str) -> None:
        """Move the mouse over the middle of the first element that matches."""
        self.mouse("mouseMoved", *self.place(selector))

    def mouse(self, kind: str, x: float, y: float, count: int = 1) -> None:
        """A ``mouseMoved``, ``mousePressed`` or ``mouseReleased`` at a place of the window."""
        button = {"button": "left", "clickCount": count, "buttons": 1} if kind != "mouseMoved" else {}
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)

    def drag(self, start: tuple[float, float], end: tuple[float, float], steps: int = 4) -> None:
        """Press at one place of the window, move, and let go at another."""
        self.mouse("mouseMoved", *start)
        self.mouse("mousePressed", *start)
        for step in range(1, steps + 1):
            x, y = (a + (b - a) * step / steps for a, b in zip(start, end, strict=True))
            self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, button="left", buttons=1)
        self.mouse("mouseReleased", *end)

    def wheel(self, x: float, y: float, delta: float) -> None:
        """Turn the wheel at a place of the window; a positive ``delta`` scrolls down."""
        self.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=delta)

    def type(self, selector: str, text: str) -> None:
        """Put a text into a field, in place of what it holds."""
        self.evaluate(f"(() => {{ const e = {_query(selector)}; e.focus(); if (e.select) e.select(); }})()")
        if text:
            self.call("Input.insertText", text=text)
        else:
            self.key("Backspace")

    def key(self, name: str, modifiers: int = 0) -> None:
        """Press and release a key: "Tab", "Enter", "Escape", "ArrowLeft", "Space" ..., or one character.

        Args:
            name: of the key.
            modifiers: 1 alt, 2 control, 4 meta, 8 shift, added up.
        """
        code, text = _KEYS.get(name, (ord(name.upper()[0]), name))
        key = " " if name == "Space" else name
        shared = {"key": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        kind = "keyDown" if text and not modifiers & 7 else "rawKeyDown"
        self.call("Input.dispatchKeyEvent", type=kind, **shared, **({"text": text} if kind == "keyDown" else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **shared)

    # --- what a person sees ----------------------------------------------------------------------

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page, as plain data; promises are waited for.

        Raises:
            AssertionError: it threw.
        """
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"].get("exception", answer)
        return answer["result"].get("value")

    def text(self, selector: str) -> str:
        """The text of the first element that matches, as it is shown."""
        return str(self.evaluate(f"{_query(selector)}.innerText"))

    def place(self, selector: str) -> tuple[float, float]:
        """The middle of the first element that matches, scrolled into the window.

        Raises:
            AssertionError: there is none, it has no size, or something else lies over it.
        """
        found = self.evaluate(
            f"""(() => {{
              const e = {_query(selector)};
              if (!e) return "nothing matches";
              e.scrollIntoView({{block: "center", inline: "nearest", behavior: "instant"}});
              const b = e.getBoundingClientRect();
              if (!b.width || !b.height) return "has no size";
              const x = b.x + b.width / 2, y = b.y + b.height / 2, top = document.elementFromPoint(x, y);
              if (!top) return "is outside the window";
              const label = top.closest("label");
              const reached = top === e || e.contains(top) || top.contains(e) || (label && label.control === e);
              return reached ? [x, y] : "is covered by " + top.outerHTML.slice(0, 120);
            }})()"""
        )
        assert isinstance(found, list), f"{selector}: {found}"
        return float(found[0]), float(found[1])

    def wait(self, condition: str, seconds: float = 15.0) -> None:
        """Wait until an expression is true.

        Raises:
            AssertionError: it did not become so.
        """
        end = time.monotonic() + seconds
        while not self.evaluate(f"Boolean({condition})"):
            assert time.monotonic() < end, f"not true after {seconds} s: {condition}"
            time.sleep(0.02)

    def screenshot(self, path: str | Path, whole: bool = False) -> Path:
        """Photograph the window (or the whole page) as PNG; the path is given back."""
        options: dict[str, Any] = {"format": "png"}
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            options["clip"] = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
            options["captureBeyondViewport"] = True
        target = Path(path)
        target.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", **options)["data"]))
        return target

    def pdf(self, path: str | Path) -> Path:
        """Print on A4 paper."""
        options = {"printBackground": False, "paperWidth": 8.27, "paperHeight": 11.69}
        target = Path(path)
        target.write_bytes(base64.b64decode(self.call("Page.printToPDF", **options)["data"]))
        return target

    # --- the machine around it -------------------------------------------------------------------

    def resize(self, width: int, height: int) -> None:
        """Give the window another size, below the 500 pixels of a real window too."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )

    def emulate(self, *, media: str = "", **features: str) -> None:
        """Another medium ("print") and preferences: ``prefers_color_scheme="dark"``, ``prefers_reduced_motion=...``."""
        given = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.call("Emulation.setEmulatedMedia", media=media, features=given)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A command of the DevTools protocol and its answer.

        Raises:
            AssertionError: the browser refused it, ended, or did not answer in time.
        """
        self._count += 1
        number = self._count
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        end = time.monotonic() + self._timeout
        while True:
            answer = self._next(end, method)
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result

    def close(self) -> None:
        """End the browser and remove its profile; closing twice does nothing."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError):
            os.close(self._write)
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with contextlib.suppress(OSError):
            os.close(self._read)
        shutil.rmtree(self._profile, ignore_errors=True)

    def _wait_for_event(self, name: str) -> None:
        end = time.monotonic() + self._timeout
        while name not in self._events:
            self._next(end, name)

    def _next(self, end: float, waiting_for: str) -> dict[str, Any]:
        """The next message; what it says about the page is noted."""
        while b"\0" not in self._buffer:
            left = end - time.monotonic()
            assert left > 0, f"the browser did not answer in time: {waiting_for}"
            if select.select([self._read], [], [], left)[0]:
                chunk = os.read(self._read, 1 << 20)
                assert chunk, f"the browser ended: {waiting_for}"
                self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(line)
        if "method" in message:
            self._note(message["method"], message.get("params", {}))
        return message

    def _note(self, name: str, params: dict[str, Any]) -> None:
        self._events.add(name)
        if name == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(str(details.get("exception", {}).get("description", details["text"])))
        elif name == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.errors.append(" ".join(str(a.get("value", a.get("description"))) for a in params["args"]))
        elif name == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])
        elif name == "Network.requestWillBeSent" and not params["request"]["url"].startswith("data:"):
            self.requests.append(params["request"]["url"])


def _query(selector: str) -> str:
    return f"document.querySelector({json.dumps(selector)})"


def open_page(path: str | Path, width: int = 1280, height: int = 900) -> Page:
    """A page opened from a file or an address with ``://``; close it, or use it in a ``with`` statement.

    Args:
        path: the file; ``file.html#place`` is understood.
        width: of the window, in pixels.
        height: of the window, in pixels.
    """
    address = str(path)
    if "://" not in address:
        file, _, place = address.partition("#")
        address = Path(file).resolve().as_uri() + (f"#{place}" if place else "")
    page = Page(width, height)
    try:
        page.goto(address)
    except BaseException:
        page.close()
        raise
    return page
