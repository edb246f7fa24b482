"""The page in a real browser: its plots are there, it says nothing, and it asks for nothing."""

import json
import os
import shutil
from pathlib import Path

import pytest

from esamp.report.build import build_report
from report.fixtures import summary, write_run

pytestmark = pytest.mark.slow

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
LOOKS = [("light", 1600), ("dark", 1600), ("light", 400), ("dark", 400)]

OUT_OF_SIGHT = """
    return [...document.querySelectorAll("body *")].filter(each => {
        const box = each.getBoundingClientRect();
        return box.width && !each.closest(".scroll, .key") && !each.closest("svg")
            && box.right > document.documentElement.clientWidth + 1;
    }).map(each => each.outerHTML.slice(0, 80));
"""
NARROWEST_TEXT = """
    return Math.min(...[...document.querySelectorAll("svg[role=img] text")].map(each => {
        const box = each.getBoundingClientRect();
        return box.height || 99;
    }));
"""


@pytest.fixture
def browser(tmp_path):
    """Chromium with an empty profile; what it logs and asks for is kept."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if found is None or driver is None:
        reason = "Chromium and its driver are not installed: the report is NOT looked at"
        if os.environ.get("ESAMP_ENGINES") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = found
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.chrome.service.Service(driver)
    opened = webdriver.Chrome(options=options, service=service)
    try:
        yield opened
    finally:
        opened.quit()


def requests_of(browser, page):
    """Addresses that the page asked for, and not the browser's own first page."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [
        each["params"]["request"]["url"]
        for each in messages
        if each["method"] == "Network.requestWillBeSent"
        and each["params"]["documentURL"].partition("#")[0] == page.as_uri()
    ]


def look(browser, page, scheme, width):
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 1400, "deviceScaleFactor": 1, "mobile": False},
    )
    browser.get(page.as_uri())


def test_plots_are_found_nothing_is_asked_for_and_pictures_are_kept(browser, tmp_path):
    runs = [
        write_run(tmp_path / "open", summary(steps=64)),
        write_run(tmp_path / "gcd", summary(verifiable=True, steps=64)),
    ]
    page = tmp_path / "report.html"
    page.write_text(build_report(runs), encoding="utf-8")
    kept = Path(os.environ.get("ESAMP_SCREENSHOTS") or tmp_path)
    kept.mkdir(parents=True, exist_ok=True)
    for scheme, width in LOOKS:
        look(browser, page, scheme, width)
        for part in ("frontier", "passk", "sweeps", "dynamics", "learning"):
            found = browser.execute_script(
                "let each = document.getElementById(arguments[0]), found = 0;"
                "while ((each = each.nextElementSibling) && each.tagName !== 'H3')"
                "  for (const svg of each.querySelectorAll('svg[role=img]'))"
                "    if (svg.getBoundingClientRect().width > 200) found++;"
                "return found;",
                f"run2-{part}",
            )
            assert found >= 4, f"{part} at {width} px"
        assert browser.execute_script(OUT_OF_SIGHT) == []
        assert browser.execute_script(NARROWEST_TEXT) >= 11.5, "px high"
        assert browser.save_screenshot(str(kept / f"report-{scheme}-{width}.png"))
    assert browser.get_log("browser") == []
    asked = [url for url in requests_of(browser, page) if not url.startswith("data:")]
    assert set(asked) == {page.as_uri()}
    dark = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    look(browser, page, "light", 1600)
    assert dark != browser.execute_script("return getComputedStyle(document.body).backgroundColor")


def test_the_policy_is_in_force(browser, tmp_path):
    """What gets past escaping would still not run."""
    page = tmp_path / "report.html"
    text = build_report([write_run(tmp_path / "run", summary(["vanilla", "esamp"], steps=4))])
    page.write_text(text.replace("<main>", "<main><script>document.title = 'run'</script>", 1))
    look(browser, page, "light", 800)
    assert browser.title != "run"
    assert "Content Security Policy" in browser.get_log("browser")[0]["message"]
