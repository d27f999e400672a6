"""A headless Chromium, driven through its DevTools protocol."""

import base64
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from websockets.sync.client import connect

needs_chromium = pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-ui-for-media-stream",  # allows the microphone
    "--use-fake-device-for-media-stream",  # which beeps once a second
)
SECONDS = 60.0  # until something must have happened


class Browser:
    """One page; `with Browser(folder) as browser: browser.open("http://...")`."""

    def __init__(self, folder: Path, size: tuple[int, int] = (900, 1300), flags: tuple[str, ...] = ()) -> None:
        self.folder, self.number = folder, 0
        self.errors: list[str] = []  # uncaught ones and what the console complains of
        command = ["chromium", *FLAGS, *flags, f"--user-data-dir={folder}", f"--window-size={size[0]},{size[1]}"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port = self._wait_for(lambda: (folder / "DevToolsActivePort").read_text().split()[0], (OSError, IndexError))
        page = json.loads(urlopen(Request(f"http://127.0.0.1:{port}/json/new?about:blank", method="PUT")).read())
        self.connection = connect(page["webSocketDebuggerUrl"], max_size=None)
        self.socket = self.connection.__enter__()
        for domain in ("Page", "Runtime", "Log", "DOM", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.__exit__(None, None, None)
        self.process.terminate()
        self.process.wait(20)

    @staticmethod
    def _wait_for(attempt: Any, expected: tuple[type[Exception], ...]) -> Any:
        end = time.monotonic() + SECONDS
        while True:
            try:
                return attempt()
            except expected:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv(timeout=SECONDS))
            if message.get("method") == "Runtime.exceptionThrown":
                self.errors.append(message["params"]["exceptionDetails"]["exception"].get("description", "?"))
            if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                self.errors.append(message["params"]["entry"]["text"])
            if message.get("id") == self.number:
                assert "error" not in message, message["error"]
                return message["result"]

    def open(self, address: str) -> None:
        """Go to an address and wait until it is there."""
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, script: str) -> Any:
        """Return the value of an expression on the page."""
        found = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, condition: str, seconds: float = SECONDS) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < end, f"never true: {condition}; errors: {self.errors}"
            time.sleep(0.05)

    def choose_files(self, selector: str, *paths: Path) -> None:
        """Give files to an input."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path.resolve()) for path in paths])

    def press(self, key: str, code: int = 0, text: str = "") -> None:
        """Press a key."""
        own = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", **own, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **own)

    def shoot(self, path: Path) -> None:
        """Save a picture of the page."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))
