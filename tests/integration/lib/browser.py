# SPDX-License-Identifier: MIT
"""browser.py - headless Chromium through ChromeDriver, with nothing but the standard library.

    with Browser(profile_directory) as b:
        b.open("http://127.0.0.1:9187/")
        b.wait_until("return document.title !== ''", 5)

Browser.missing() says what is not installed.  Whatever was started ends with the block, and with
this process: ChromeDriver gets SIGKILL when its parent dies, and its browser with it.
"""

import base64
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars",
]
PR_SET_PDEATHSIG = 1


def die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Browser:
    @staticmethod
    def missing():
        """Name of a program that is needed and not here, or None."""
        for program in ("chromium", "chromedriver"):
            if shutil.which(program) is None:
                return program
        return None

    def __init__(self, directory, width=1280, height=1000):
        self.directory = directory
        self.log = os.path.join(directory, "chromedriver.log")
        self.size = (width, height)

    def __enter__(self):
        with open(self.log, "wb") as log:
            self.driver = subprocess.Popen(
                [shutil.which("chromedriver"), "--port=0"], stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=die_with_parent)
        try:
            self.base = "http://127.0.0.1:%d" % self.port()
            self.session = self.call("POST", "/session", {"capabilities": {"alwaysMatch": {
                "browserName": "chrome",
                "goog:loggingPrefs": {"browser": "ALL"},
                "goog:chromeOptions": {
                    "binary": shutil.which("chromium"),
                    "args": FLAGS + [
                        "--user-data-dir=" + os.path.join(self.directory, "profile"),
                        "--window-size=%d,%d" % self.size,
                    ],
                },
            }}})["sessionId"]
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_):
        try:
            self.call("DELETE", "/session/" + self.session)
        except (OSError, RuntimeError):
            pass  # it is killed all the same
        self.kill()

    def kill(self):
        try:
            os.killpg(self.driver.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.driver.wait()

    def port(self):
        end = time.monotonic() + 30
        while time.monotonic() < end and self.driver.poll() is None:
            with open(self.log, encoding="utf-8", errors="replace") as log:
                found = re.search(r"started successfully on port (\d+)", log.read())
            if found:
                return int(found.group(1))
            time.sleep(0.05)
        raise RuntimeError("ChromeDriver does not start")

    def call(self, method, path, body=None):
        request = urllib.request.Request(
            self.base + path, method=method,
            data=None if body is None and method != "POST" else json.dumps(body or {}).encode(),
            headers={"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as e:
            raise RuntimeError(json.load(e)["value"]["message"].splitlines()[0]) from None

    def command(self, method, path, body=None):
        return self.call(method, "/session/%s/%s" % (self.session, path), body)

    def open(self, url):
        self.command("POST", "url", {"url": url})

    def run(self, script, *args):
        """Value of a script's return statement."""
        return self.command("POST", "execute/sync", {"script": script, "args": list(args)})

    def wait_until(self, script, seconds, *args):
        """Seconds until the script returns something true; None if it never did."""
        start = time.monotonic()
        while True:
            if self.run(script, *args):
                return time.monotonic() - start
            if time.monotonic() - start > seconds:
                return None
            time.sleep(0.05)

    def press(self, *keys):
        """Press and release keys, one after the other."""
        actions = [{"type": t, "value": k} for k in keys for t in ("keyDown", "keyUp")]
        self.command("POST", "actions", {
            "actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def messages(self):
        """What the console has got since the last call."""
        return [m["level"] + ": " + m["message"]
                for m in self.command("POST", "se/log", {"type": "browser"})]

    def emulate(self, scheme=None, width=None, height=None):
        """Colour scheme "dark" or "light"; size of the window as a phone has it."""
        if scheme is not None:
            self.cdp("Emulation.setEmulatedMedia", {
                "features": [{"name": "prefers-color-scheme", "value": scheme}]})
        if width is not None:
            self.cdp("Emulation.setDeviceMetricsOverride", {
                "width": width, "height": height, "deviceScaleFactor": 1, "mobile": True})

    def cdp(self, name, params):
        return self.command("POST", "goog/cdp/execute", {"cmd": name, "params": params})

    def screenshot(self, path, whole=False):
        """The window, or the whole page, as a PNG file."""
        if whole:
            size = self.cdp("Page.getLayoutMetrics", {})["cssContentSize"]
            data = self.cdp("Page.captureScreenshot", {
                "format": "png", "captureBeyondViewport": True,
                "clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"],
                         "scale": 1}})["data"]
        else:
            data = self.command("GET", "screenshot")
        with open(path, "wb") as f:
            f.write(base64.b64decode(data))
