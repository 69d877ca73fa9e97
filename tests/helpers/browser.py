"""Headless Chromium over built pages: no network, every request and console message seen."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from visualheads.paths import BROWSERS, browser_program

DRIVER = "chromedriver"
WAIT = 60
"""Seconds for charts to appear: continuous integration shares its processors."""
PHONE = 390


def needed() -> tuple[str, str]:
    """Paths of browser and driver. Skips the test where one is missing, and fails it in continuous integration."""
    browser = browser_program()
    driver = shutil.which(DRIVER)
    if browser and driver:
        return browser, driver
    reason = f"needs {BROWSERS[0]} and {DRIVER} (Debian: apt-get install chromium chromium-driver)"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


class Pages:
    """One browser window."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self.width = 0

    def open(self, path: Path, width: int = 1280, height: int = 1000, draw: bool = True) -> None:
        """Open a file at a window width; wait until it is loaded and, with `draw`, all its charts are drawn."""
        self.resize(width, height)
        self.driver.get_log("performance")
        self.driver.get_log("browser")
        self.driver.get(path.resolve().as_uri())
        self.wait_until("return document.readyState === 'complete'")  # now and then `get` ends before
        if draw:
            self.wait_for_charts()

    def wait_until(self, script: str, *arguments: Any) -> None:
        """Wait until a script gives true."""
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, WAIT).until(lambda driver: driver.execute_script(script, *arguments))

    def resize(self, width: int, height: int = 1000) -> None:
        """Lay the page out for a screen of this width."""
        self.width = width
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)

    def wait_for_charts(self, theme: str = "") -> None:
        """Draw every chart that is not folded away, far ones too, and wait until all are (in this theme)."""
        from selenium.webdriver.support.ui import WebDriverWait

        script = (
            "window.bookCharts?.drawAll();"
            "return [...document.querySelectorAll('.vega-chart')].filter(c => c.clientWidth)"
            ".every(c => c.dataset.drawn && c.dataset.drawn === c.asked && c.dataset.drawn.startsWith(arguments[0]))"
        )
        WebDriverWait(self.driver, WAIT).until(lambda driver: driver.execute_script(script, theme))

    def run(self, script: str, *arguments: Any) -> Any:
        """The value of a script."""
        return self.driver.execute_script(script, *arguments)

    def set_theme(self, theme: str) -> None:
        """Turn the page dark or light as the theme's button does."""
        self.run("document.documentElement.dataset.theme = arguments[0]", theme)
        self.wait_for_charts(theme)

    def requests(self, until_load: bool = False) -> list[str]:
        """Addresses of all requests since the page was opened; of those that it made until it was loaded."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        if until_load:
            loaded = max(e["params"]["timestamp"] for e in events if e["method"] == "Page.loadEventFired")
            events = [e for e in events if e["params"].get("timestamp", loaded) <= loaded]
        return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]

    def errors(self) -> list[str]:
        """Console errors since the page was opened."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def overflow(self) -> int:
        """Pixels by which the page is wider than its screen: a phone's window grows with a page that is too wide."""
        return self.run("return document.documentElement.scrollWidth") - self.width

    def screenshot(self, path: Path) -> None:
        """The visible part of the page."""
        self.driver.save_screenshot(str(path))


@contextmanager
def browser() -> Iterator[Pages]:
    """A browser window that cannot reach any host."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    binary, driver_path = needed()
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        "--hide-scrollbars",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(driver_path))
    try:
        driver.set_page_load_timeout(2 * WAIT)
        yield Pages(driver)
    finally:
        driver.quit()
