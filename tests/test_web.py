"""The page of web/ as people meet it: built, opened in Chromium, painting, stopped, asked and looked into."""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import psycopg
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from installation import ROOT
from screenshots import served

PAGE = ROOT / "build" / "web"
PATIENCE = 300  # seconds that a machine with much else to do may take


@pytest.fixture(scope="module")
def built() -> Path:
    """The page, as `make web` builds it."""
    for command in ("node", "npm", "chromium", "chromedriver"):
        if not shutil.which(command):
            pytest.skip(f"there is no {command} here")
    done = subprocess.run(["make", "web"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return PAGE


class Page:
    """The page in a browser, and what the tests do there."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        self.requested: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        return self.driver.find_element(By.ID, name)

    def until(self, what: Callable[[], object]) -> Any:
        return WebDriverWait(self.driver, PATIENCE, 0.1).until(lambda _: what())

    def status(self, begins: str, name: str = "status") -> str:
        """Waits for this beginning of what the page says of itself."""

        def said() -> str | None:
            text = str(self[name].get_property("textContent"))
            assert "error" not in self[name].get_attribute("class").split(), text
            return text if text.startswith(begins) else None

        return str(self.until(said))

    def requests(self) -> list[str]:
        """What was fetched since this was asked last."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        # the browser's own pages aside
        urls = [
            str(request["request"]["url"]) for request in sent if request["documentURL"].startswith("http://127.0.0.1:")
        ]
        self.requested.update(urls)
        return urls

    def does(self, name: str) -> bool:
        return self[name].get_attribute("aria-disabled") != "true"

    def press(self, name: str) -> None:
        """A button, by the keyboard, as everything on the page can be used."""
        self.until(lambda: self.does(name))
        self[name].send_keys(Keys.ENTER)

    def choose(self, seed: int, steps: int, prompt: str = "") -> None:
        for name, value in (("prompt", prompt), ("seed", seed), ("steps", steps)):
            self[name].clear()
            self[name].send_keys(str(value))

    def paint(self, seed: int, steps: int, prompt: str = "") -> np.ndarray:
        """A picture (height, width, channels) in gray levels, as the canvas shows it when it is done."""
        self.choose(seed, steps, prompt)
        self.press("go")
        self.status("Done")
        # one picture becomes the next within half a second; the strip has it at once
        return self.pixels("#picture", "#strip li:last-child canvas")

    def pixels(self, *selectors: str) -> np.ndarray:
        """What these canvases show, once it is the same."""
        read = "return document.querySelector(arguments[0]).toDataURL('image/png').split(',')[1]"

        def same() -> str | None:
            texts = {self.driver.execute_script(read, selector) for selector in selectors}
            return texts.pop() if len(texts) == 1 else None

        return np.asarray(Image.open(io.BytesIO(base64.b64decode(self.until(same)))).convert("RGB")).astype(int)

    def ask(self, query: str) -> str:
        """Types a query into the editor, runs it by the keyboard, and reads what it gives."""
        content = self["editor"].shadow_root.find_element(By.CSS_SELECTOR, ".cm-content")
        content.send_keys(Keys.CONTROL, "a", Keys.NULL, Keys.DELETE)
        content.send_keys(query)
        content.send_keys(Keys.CONTROL, Keys.ENTER, Keys.NULL)
        self.status("Done", "query-status")
        return str(self["results"].text)


@pytest.fixture(scope="module")
def site(built: Path) -> Iterator[ThreadingHTTPServer]:
    with served(built) as server:
        yield server


@pytest.fixture(scope="module")
def page(site: ThreadingHTTPServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Open in a browser that has never been here."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "window-size=1280,800",
        f"user-data-dir={tmp_path_factory.mktemp('browser')}",
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        driver.get(f"http://127.0.0.1:{site.server_port}/")
        yield Page(driver)
    finally:
        driver.quit()


def test_it_says_how_much_it_loads_before_it_does(page: Page, built: Path) -> None:
    large = sum(file.stat().st_size for file in built.glob("*.bin"))
    page.until(lambda: f"({large / 1e6:.1f} MB)" in page["go"].text)
    urls = page.requests()
    assert urls and not [url for url in urls if url.endswith(".bin")]


def test_a_picture_is_the_one_that_a_server_makes(
    page: Page, connection: psycopg.Connection, rng: np.random.Generator
) -> None:
    seed = int(rng.integers(2**31))
    painted = page.paint(seed, 2)
    row = connection.execute(
        "select ddpm_generate(%s::bigint, num_inference_steps => 2, backend => 'sql')", [seed]
    ).fetchone()
    assert row is not None
    expected = np.array(row[0]).transpose(1, 2, 0) * 255
    assert painted.shape == expected.shape
    assert np.abs(painted - expected).max() <= 1
    assert expected.std() > 10
    assert f"seed={seed}&steps=2" in page.driver.current_url
    assert f"ddpm_steps({seed}, num_inference_steps => 2)" in page["log"].text


def test_a_prompt_gives_the_picture_that_a_server_makes(
    page: Page, connection: psycopg.Connection, rng: np.random.Generator
) -> None:
    seed, prompt = int(rng.integers(2**31)), "a butterfly's blue wings & a leaf"
    painted = page.paint(seed, 2, prompt)
    row = connection.execute(
        "select text_to_image(%s, %s, num_inference_steps => 2, backend => 'sql')", [prompt, seed]
    ).fetchone()
    assert row is not None
    expected = np.array(row[0]).transpose(1, 2, 0) * 255
    assert painted.shape == expected.shape == (128, 128, 3)
    assert np.abs(painted - expected).max() <= 1
    assert expected.std() > 10
    # a step before the last is a look at a latent
    assert page.pixels("#strip li:first-child canvas").shape == (16, 16, 3)
    assert f"#{urlencode({'prompt': prompt, 'seed': seed, 'steps': 2})}" in page.driver.current_url
    assert page["picture"].get_attribute("aria-label") == f"{prompt}, seed {seed}"
    assert f"text_to_image_steps('{prompt.replace(chr(39), 2 * chr(39))}', {seed}" in page["log"].text


def test_a_layer_is_looked_into(page: Page, connection: psycopg.Connection) -> None:
    page.press("pass")
    assert "a butterfly's blue wings & a leaf" in page.status("101 results", "pass-status")
    rows = page["plan"].find_elements(By.CSS_SELECTOR, "tbody tr")
    names = connection.execute(
        "select operation, key from sql_diffusion.plan('prompted-butterflies') order by step"
    ).fetchall()
    assert [row.find_element(By.TAG_NAME, "button").text for row in rows] == [operation for operation, _ in names]
    at, (operation, key) = next((at, name) for at, name in enumerate(names) if name[0] == "resnet_block")
    rows[at].find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    page.until(lambda: f"run_{operation}" in page["layer"].text)
    assert key in page["layer"].text and "standard deviation" in page["layer"].text
    assert len(page["layer"].find_elements(By.TAG_NAME, "canvas")) == 32


def test_a_query_is_typed_and_its_pictures_are_shown(page: Page) -> None:
    assert "42" in page.ask("create table mine as select 6 * 7 as answer; select answer from mine;")
    page.ask(
        "select image_png(array_fill(0.5::real, array[3, 8, 8])) as png, array_fill(0.5::real, array[3, 8, 8]) as image;"
    )
    image = page["results"].find_element(By.TAG_NAME, "img")
    page.until(lambda: page.driver.execute_script("return arguments[0].naturalWidth", image) == 8)
    assert (page.pixels("#results canvas") == 128).all()


def test_what_a_query_does_wrong_is_told(page: Page) -> None:
    content = page["editor"].shadow_root.find_element(By.CSS_SELECTOR, ".cm-content")
    content.send_keys(Keys.CONTROL, "a", Keys.NULL, Keys.DELETE)
    content.send_keys("select ddpm_generate(1, scheduler => 'none')")
    page.press("run")
    page.status("Refused", "query-status")
    assert "scheduler" in page["results"].find_element(By.CSS_SELECTOR, ".error").text


def test_stop_ends_it_at_once_and_what_was_kept_is_there(page: Page) -> None:
    page.choose(1, 50)
    page.press("go")
    page.status("Step 1 of 50")
    page.press("stop")
    assert page.driver.switch_to.active_element == page["stop"]
    page.status("Stopped")
    page.until(lambda: page.does("go"))
    assert page.paint(1, 1).std() > 10
    assert "42" in page.ask("select answer from mine;")


def test_the_second_visit_needs_no_network(page: Page, site: ThreadingHTTPServer) -> None:
    page.until(lambda: page.driver.execute_async_script("navigator.serviceWorker.ready.then(() => arguments[0](true))"))
    site.shutdown()
    site.server_close()
    page.driver.refresh()
    page.status("PostgreSQL is up")
    assert "42" in page.ask("select answer from mine;")


def test_nothing_was_complained_of_and_no_other_host_asked(page: Page) -> None:
    assert [entry for entry in page.driver.get_log("browser") if entry["level"] != "INFO"] == []
    page.requests()
    home = page.driver.current_url.split("#")[0]
    assert len([url for url in page.requested if url.endswith(".bin")]) == 3
    assert [url for url in page.requested if not url.startswith((home, f"blob:{home}", "data:"))] == []


def test_a_worker_of_the_page_may_not_ask_another_host(page: Page) -> None:
    """It is made of the page's own text, as the page's worker is, so what binds the page binds it."""
    blocked = page.driver.execute_async_script("""
      const tell = arguments[0];
      const script = "addEventListener('securitypolicyviolation', (event) => postMessage(event.blockedURI)); fetch('https://files.invalid/').catch(() => 0)";
      new Worker(URL.createObjectURL(new Blob([script]))).onmessage = (event) => tell(event.data);
    """)
    assert blocked == "https://files.invalid/"
