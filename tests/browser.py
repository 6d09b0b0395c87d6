"""Headless Chromium, driven by its own protocol over a pair of pipes: no port, no other package."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

SECONDS = 300


class Browser:
    """One page."""

    def __init__(self, write: int, read: int) -> None:
        self._write = write
        self._read = os.fdopen(read, "rb", closefd=False)
        self._pending = b""
        self._number = 0
        self.complaints: list[str] = []
        """What the page's console and its content policy said."""
        target = self._call("Target.createTarget", {"url": "about:blank"})["targetId"]
        self._session = self._call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._call(method, params, self._session)

    def open(self, page: Path) -> None:
        self.call("Page.navigate", url=page.as_uri())
        while self.evaluate("document.readyState") != "complete":
            pass

    def evaluate(self, script: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def click(self, selector: str) -> None:
        """As a person would: with the mouse, on the middle of it."""
        script = f"""(() => {{ const found = document.querySelector({json.dumps(selector)});
            found.scrollIntoView({{block: "center"}}); const box = found.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2] }})()"""
        x, y = self.evaluate(script)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def shown(self, selector: str) -> list[str]:
        """The ids of the elements that can be seen."""
        script = f"""[...document.querySelectorAll({json.dumps(selector)})]
            .filter(found => found.checkVisibility() && found.getBoundingClientRect().height > 0)
            .map(found => found.id)"""
        return list(self.evaluate(script))

    def _call(self, method: str, params: dict[str, Any], session: str | None = None) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer)
                return dict(answer["result"])
            if answer.get("method") in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
                self.complaints.append(json.dumps(answer["params"]))
            if answer.get("method") == "Network.requestWillBeSent":
                url = answer["params"]["request"]["url"]
                if not url.startswith(("file:", "about:")):
                    self.complaints.append(f"asked for {url}")

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._pending:
            data = self._read.read1(65536)
            assert data, "the browser has ended"
            self._pending += data
        message, _, self._pending = self._pending.partition(b"\0")
        return dict(json.loads(message))


@contextmanager
def browser(directory: Path) -> Iterator[Browser]:
    """Skips the test where there is no Chromium. directory: for what it keeps."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium (apt install chromium)")
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    # It reads from 3 and writes to 4. Ended by the alarm if we are no more.
    shell = f'exec 3<&{in_read} 4>&{out_write}; exec timeout -s KILL {SECONDS} "$@"'
    flags = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-breakpad", "--mute-audio"),
        *(f"--user-data-dir={directory}", "--remote-debugging-pipe"),
    ]
    process = subprocess.Popen(
        ["bash", "-c", shell, "browser", program, *flags],
        pass_fds=(in_read, out_write),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "HOME": str(directory), "XDG_RUNTIME_DIR": str(directory)},
    )
    os.close(in_read)
    os.close(out_write)
    try:
        yield Browser(in_write, out_read)
    finally:
        os.close(in_write)
        os.close(out_read)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
