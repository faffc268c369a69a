"""Takes the pictures of the page that the documents show, doc/pictures/web.png and web-phone.png, once it has painted.

    make web && .venv/bin/python scripts/screenshots.py [SEED]

It takes chromium and chromedriver, and some minutes on a machine with other work. The prompt is the one that the page has for its example.
"""

from __future__ import annotations

import io
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.wait import WebDriverWait

ROOT = Path(__file__).parent.parent

# the window's width and height, the picture's width, the colours that the visitor prefers
PICTURES = {"web": (1280, 1010, 880, "light"), "web-phone": (390, 844, 300, "dark")}


class Quiet(SimpleHTTPRequestHandler):
    """Static files, and nothing said of them."""

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[ThreadingHTTPServer]:
    """A server of a folder, at some port of the loopback interface."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def paint(driver: webdriver.Chrome, seed: str) -> None:
    """The example's prompt, typed and painted."""
    driver.execute_script(
        "const prompt = document.getElementById('prompt');"
        "[prompt.value, document.getElementById('seed').value] = [prompt.placeholder, arguments[0]];"
        "document.getElementById('go').click();",
        seed,
    )
    status = "return document.getElementById('status').textContent"
    WebDriverWait(driver, 900, 0.2).until(lambda _: driver.execute_script(status).startswith("Done"))


def take(driver: webdriver.Chrome, name: str) -> None:
    width, height, wide, scheme = PICTURES[name]
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": scheme == "dark"}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    colours = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", colours)
    # one picture becomes the next within half a second
    driver.execute_async_script("scrollTo({top: 0, behavior: 'instant'}); setTimeout(arguments[0], 700)")
    taken = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    small = taken.resize((wide, round(wide * height / width)), Image.Resampling.LANCZOS)
    small.quantize(256, dither=Image.Dither.NONE).save(ROOT / "doc" / "pictures" / f"{name}.png", optimize=True)


def main() -> None:
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in ("headless", "no-sandbox", "disable-gpu", "hide-scrollbars"):
        options.add_argument(f"--{argument}")
    with (
        served(ROOT / "build" / "web") as server,
        webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver"))) as driver,
    ):
        driver.get(f"http://127.0.0.1:{server.server_port}/")
        paint(driver, sys.argv[1] if len(sys.argv) > 1 else "7")
        for name in PICTURES:
            take(driver, name)


if __name__ == "__main__":
    main()
