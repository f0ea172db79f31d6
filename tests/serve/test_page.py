"""The page at `/` in a headless browser, wide and narrow. SILTSTONE_PICTURES is a folder for pictures of it."""

from __future__ import annotations

import importlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from siltstone.serve.house import House

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
pytestmark = [
    pytest.mark.filterwarnings("default"),  # its imports warn
    pytest.mark.skipif(CHROMIUM is None, reason="no browser was found"),
]
WIDTHS = (1280, 390)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if os.environ.get("SILTSTONE_CLIENTS"):
        api = importlib.import_module("playwright.sync_api")
    else:
        api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as play:
        made = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(os.environ.get("SILTSTONE_PICTURES") or tmp_path_factory.mktemp("pictures"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page(browser: Any, url: str, raw: httpx2.Client, house: House, pictures: Path, width: int) -> None:
    first = raw.post("/sessions", json={}).json()["id"]
    raw.post(f"/sessions/{first}/append", json={"text": "Of trees. " * 20})
    fork = raw.post(f"/sessions/{first}/fork").json()["id"]
    twig = raw.post(f"/sessions/{fork}/fork").json()["id"]
    raw.post(f"/sessions/{twig}/append", json={"text": "A twig."})
    said: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.on("console", lambda told: said.append(told.text) if told.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(url)
    page.wait_for_selector("#figures dt")
    usage = []
    for turn, text in enumerate(("<b>Who</b> sailed to the island? " + "x" * 150, "And then?")):
        page.fill("#text", text)
        page.fill("#most", "12")
        page.click("#send")
        page.wait_for_selector(f"#talk li.assistant:nth-of-type({2 * turn + 2}) small", timeout=30_000)
        told = page.inner_text(f"#talk li.assistant:nth-of-type({2 * turn + 2}) small")
        usage.append([int(x) for x in re.findall(r"\d+", told)])
    assert usage[0][2] == 12 and usage[1][0] == sum(usage[0]) and usage[1][1] < 30
    assert "<b>Who</b> sailed" in page.inner_text("#talk") and not page.query_selector("#talk b")
    page.wait_for_function("id => document.getElementById('tree').textContent.includes(id.slice(0, 13))", arg=twig)
    depth = """id => {
        let item = [...document.querySelectorAll('#tree li')].find(x => x.firstChild.textContent.startsWith(id.slice(0, 13)));
        let found = 0;
        while ((item = item.parentElement.closest('li'))) found++;
        return found;
    }"""
    assert [page.evaluate(depth, id) for id in (first, fork, twig)] == [0, 1, 2]
    page.screenshot(path=str(pictures / f"page-{width}.png"), full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for name in ("#text", "#most", "#send", "#clear"):
        box = page.query_selector(name).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width and box["height"] >= 24, (name, box)
        assert page.evaluate("e => !!e.labels?.length || !!e.textContent", page.query_selector(name))
    page.fill("#text", "x")
    page.fill("#most", "5000")
    page.click("#send")  # the browser itself refuses the number
    assert page.evaluate("document.querySelectorAll('#talk li').length") == 4
    page.click("#clear")
    assert page.inner_text("#talk") == "" and not said
    page.close()


def test_the_page_says_what_went_wrong(browser: Any, url: str) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.goto(url)
    page.wait_for_selector("#figures dt")
    page.route("**/v1/chat/completions", lambda route: route.fulfill(status=429, json={"error": {"message": "Too many wait."}}))
    page.fill("#text", "Is there room?")
    page.click("#send")
    page.wait_for_selector("#state:has-text('Too many wait.')")
    assert page.input_value("#text") == "Is there room?" and page.is_enabled("#send")  # nothing is lost
    page.close()


def test_a_new_conversation_is_new_while_an_answer_comes(browser: Any, url: str) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(url)
    page.wait_for_selector("#figures dt")
    page.fill("#text", "An old conversation. " * 20)
    page.fill("#most", "400")
    page.click("#send")
    page.wait_for_function("() => document.querySelector('#talk li.assistant')?.textContent")
    page.click("#clear")
    page.wait_for_selector("#send:enabled", timeout=60_000)
    page.fill("#text", "New.")
    page.fill("#most", "4")
    page.click("#send")
    page.wait_for_selector("#talk li.assistant small", timeout=30_000)
    reused, read, _ = (int(x) for x in re.findall(r"\d+", page.inner_text("#talk li.assistant small")))
    assert reused + read < 30 and len(page.query_selector_all("#talk li")) == 2
    page.close()
