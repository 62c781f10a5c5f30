"""A real browser and two servers on this machine: the front door without keys, and an attacker's site."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.chrome.webdriver import WebDriver

from tests.browser.servers import Attacker, Target

NEEDED = "this test needs Chromium and chromedriver; scripts/browser installs them or prints how to"
STRANGER = "attacker.example"
"""A name that the browser resolves to this machine, as after DNS rebinding."""
WAIT_S = 60


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.fail(NEEDED)
    options = Options()
    options.binary_location = chromium
    switches = ["headless=new", "disable-gpu", "disable-dev-shm-usage", "no-first-run", "no-proxy-server"]
    switches += [
        "disable-background-networking",
        "disable-component-update",
        "autoplay-policy=no-user-gesture-required",
    ]
    switches += [f"user-data-dir={tmp_path_factory.mktemp('browser')}", f"host-resolver-rules=MAP {STRANGER} 127.0.0.1"]
    if os.geteuid() == 0:
        switches.append("no-sandbox")  # Chromium refuses to run its sandbox as root
    for switch in switches:
        options.add_argument(f"--{switch}")
    made = webdriver.Chrome(options, Service(driver))
    made.set_page_load_timeout(WAIT_S)
    made.set_script_timeout(WAIT_S)
    yield made
    made.quit()


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    with Target(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def attacker() -> Iterator[Attacker]:
    with Attacker() as made:
        yield made
