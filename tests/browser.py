"""A headless Chromium, driven over its DevTools protocol: what a page does, says, refuses and looks like."""

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ANSWER_S = 60.0
"""Longest wait for Chromium: other work may have the machine."""
MODIFIERS = {"": 0, "Control": 2}


class Page:
    """One tab."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket, self.ids, self.problems = socket, itertools.count(1), list[str]()
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command's result; what the page complained of meanwhile is in `problems`."""
        number = next(self.ids)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (said := json.loads(self.socket.recv(timeout=ANSWER_S))).get("id") != number:
            if said["method"] == "Runtime.exceptionThrown":
                self.problems.append(str(said["params"]["exceptionDetails"]))
            elif said["method"] == "Log.entryAdded" and said["params"]["entry"]["source"] != "network":
                self.problems.append(said["params"]["entry"]["text"])
        assert "error" not in said, said["error"]
        return dict(said["result"])

    def open(self, url: str, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Load a page at this size."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.send(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )
        self.send("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def value(self, expression: str) -> Any:
        """What an expression in the page comes to, promises awaited."""
        found = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait for an expression to be true."""
        look = f"new Promise(done => {{ const look = () => ({expression}) ? done() : setTimeout(look, 10); look(); }})"
        self.value(look)

    def press(self, key: str, modifier: str = "") -> None:
        """One key, as typed."""
        text = {"text": key} if len(key) == 1 and not modifier else {}
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, modifiers=MODIFIERS[modifier], **text)

    def write(self, selector: str, text: str) -> None:
        """Text into a field, as typed."""
        self.value(f"document.querySelector({json.dumps(selector)}).focus()")
        self.send("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        """A click on an element."""
        self.value(f"document.querySelector({json.dumps(selector)}).click()")

    def text(self, selector: str) -> list[str]:
        """What the elements say."""
        return list(self.value(f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.innerText)"))

    def picture(self, path: Path) -> None:
        """The whole page as a PNG."""
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        taken = self.send("Page.captureScreenshot", captureBeyondViewport=True, clip={**size, "scale": 1})
        path.write_bytes(base64.b64decode(taken["data"]))


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """A Chromium of its own, with its profile below a folder."""
    assert CHROMIUM
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0"]
    command = [CHROMIUM, *flags, f"--user-data-dir={folder}", "about:blank"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr
            at = next(line.split()[-1] for line in process.stderr if "DevTools listening on" in line)
            tabs = httpx.get(f"http://{at.split('/')[2]}/json", trust_env=False).json()
            page = next(tab for tab in tabs if tab["type"] == "page")
            with connect(page["webSocketDebuggerUrl"], max_size=None, proxy=None) as socket:
                yield Page(socket)
        finally:
            process.terminate()
