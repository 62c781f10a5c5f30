"""In a real browser, other sites' pages can do nothing with a server on the same machine that needs no keys."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait

from tests.browser.conftest import STRANGER, WAIT_S
from tests.browser.servers import Attacker, Seen, Target

ATTEMPTS = (Path(__file__).parent / "attempts.js").read_text()
BEACON = "/v1/videos?beacon=1"


def attempts(browser: WebDriver, server: str, video: str) -> dict[str, Any]:
    """Let the current page try every kind of request."""
    results = browser.execute_async_script(ATTEMPTS, server, video)
    assert isinstance(results, dict), results
    return results


def reached(target: Target, beacons: int = 1) -> list[Seen]:
    """Return the requests that have reached the server, once the beacons, which are sent asynchronously, have."""
    return target.watched.seen(lambda seen: sum(one.path == BEACON for one in seen) >= beacons)


@pytest.mark.parametrize("host", ["127.0.0.1", STRANGER])
@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_a_page_of_another_origin(browser: WebDriver, target: Target, attacker: Attacker, host: str, name: str) -> None:
    """A page of another port (the same site) or of another name can read and change nothing."""
    before = target.state()
    browser.get(attacker.url(host))
    results = attempts(browser, target.url(name), target.waiting)
    assert set(results["read"].values()) == {"blocked"}
    assert set(results["shown"].values()) == {False}
    assert set(results["sent"].values()) == {"opaque"}  # sent, but the page cannot see the response
    assert set(results["asked"].values()) == {"blocked"}
    assert results["sandboxed"] == "opaque"
    seen = reached(target)
    assert {one.status for one in seen} == {403}
    assert {one.method for one in seen} == {"GET", "POST", "OPTIONS", "WEBSOCKET"}
    assert len(seen) >= 8 + 4 + 6 + 2 + 1 + 1
    assert target.state() == before


def test_a_name_that_was_pointed_at_this_machine(browser: WebDriver, target: Target) -> None:
    """After DNS rebinding, the browser sees one origin for page and server, so only the host name tells them apart."""
    before = target.state()
    browser.get(f"{target.url(STRANGER)}/healthz")
    results = attempts(browser, target.url(STRANGER), target.waiting)
    for answer in (*results["read"].values(), *results["sent"].values(), *results["asked"].values()):
        status, text = answer
        assert status == 403
        error = json.loads(text)["error"]
        assert (error["param"], error["code"]) == ("Host", "forbidden")
        assert "secret" not in text
    assert set(results["shown"].values()) == {False}
    seen = reached(target)
    assert {(one.status, one.host) for one in seen} == {(403, f"{STRANGER}:{target.port}")}
    assert "DELETE" in {one.method for one in seen}
    assert target.state() == before


@pytest.mark.parametrize("host", ["127.0.0.1", STRANGER])
@pytest.mark.parametrize("enctype", ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain"])
def test_a_form_that_sends_itself(
    browser: WebDriver, target: Target, attacker: Attacker, host: str, enctype: str
) -> None:
    before = target.state()
    to = f"{target.url()}/v1/videos"
    browser.get(f"{attacker.url(host)}/form?{urlencode({'to': to, 'enctype': enctype})}")
    assert refusal(browser, to)["param"] == "Origin"
    assert [(one.method, one.status) for one in target.watched.seen() if "favicon" not in one.path] == [("POST", 403)]
    assert target.state() == before


def test_a_link_that_follows_itself(browser: WebDriver, target: Target, attacker: Attacker) -> None:
    to = f"{target.url()}/v1/videos"
    browser.get(f"{attacker.url(STRANGER)}/link?{urlencode({'to': to})}")
    assert refusal(browser, to)["param"] == "Sec-Fetch-Site"


def refusal(browser: WebDriver, url: str) -> dict[str, str]:
    """Return the error that the browser shows after following a page to this URL."""
    WebDriverWait(browser, WAIT_S).until(lambda at: at.current_url == url)
    return json.loads(browser.execute_script("return document.body.innerText"))["error"]


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_a_page_of_the_servers_own(browser: WebDriver, target: Target, name: str) -> None:
    """From the server's own address, all requests that are rejected elsewhere succeed."""
    browser.get(f"{target.url(name)}/healthz")
    assert json.loads(browser.execute_script("return document.body.innerText")) == {"status": "ok"}
    results = attempts(browser, target.url(name), target.video)
    read = results["read"]
    assert {status for status, _ in read.values()} == {200}
    assert "secret" in read["videos"][1]
    assert results["shown"] == {"image": True, "video": True, "events": True, "socket": False}
    sent = {name: status for name, (status, _) in results["sent"].items()}
    assert sent == {"urlencoded": 200, "multipart": 200, "plain": 400, "untyped": 400, "upload": 200, "cancel": 409}
    assert [status for status, _ in results["asked"].values()] == [200, 200]
    refused = [one.path for one in reached(target) if one.status == 403]
    assert refused == ["/v1/videos", "/v1/videos?sandboxed=1"]  # the socket, and the frame with an opaque origin
    assert target.store.count_jobs() == [("text-to-video", "completed", 1), ("text-to-video", "queued", 5)]
