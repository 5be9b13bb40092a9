"""The page at / in headless Chromium, against a real server."""

from __future__ import annotations

import shutil

import httpx
import numpy as np
import pytest

from tests.drawing import draw_shape, png
from tests.service.server import serving

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as engine:
        try:
            browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"needs Chromium: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture
def page(browser, server):
    page = browser.new_page(viewport={"width": 1100, "height": 900})
    page.problems, page.elsewhere = [], []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda message: page.problems.append(message.text) if message.type == "error" else None)
    url = str(server.client.base_url)
    page.on(
        "request", lambda r: page.elsewhere.append(r.url) if not r.url.startswith((url, "blob:", "data:")) else None
    )
    page.goto(url)
    page.get_by_label("API key").fill(server.client.headers["authorization"].removeprefix("Bearer "))
    page.keyboard.press("Enter")
    page.get_by_text("Under white-box attack", exact=False).or_(page.get_by_text("has not been measured")).wait_for()
    page.problems.clear()  # the refusal before the key was there
    yield page
    assert (page.problems, page.elsewhere) == ([], [])
    page.close()


def test_what_is_proved_of_an_answer_is_said_with_the_masked_inputs(browser, masks_bundle, tmp_path):
    with serving(masks_bundle.path, tmp_path / "log") as client:
        page = browser.new_page()
        page.goto(str(client.base_url))
        page.get_by_role("button", name="ship", exact=True).click()
        _answered(page)
        assert (
            "sticker of up to 5 \N{MULTIPLICATION SIGN} 5 pixels of the model's input"
            in page.locator("#proof").inner_text()
        )
        assert page.locator("#masked li").count() == 0
        page.get_by_text("The input behind each mask").click()
        page.wait_for_selector("#masked canvas")
        assert page.locator("#masked li").count() == 9
        grey = "canvas => canvas.getContext('2d').getImageData(5, 5, 1, 1).data.join()"
        assert page.locator("#masked canvas").first.evaluate(grey) == "128,128,128,255"
        page.close()


def _answered(page) -> None:
    page.wait_for_selector("#details:not([hidden])")


def test_a_drawn_sample_is_answered_with_bars_the_times_split_and_who_answered(page):
    page.get_by_role("button", name="ship", exact=True).press("Enter")
    _answered(page)
    rows = page.locator("#classes li")
    assert rows.count() == 3
    assert page.get_by_role("status").inner_text().startswith("ship: ")
    shares = [
        float(text.removesuffix("%")) for text in page.locator("#classes .name span:last-child").all_inner_texts()
    ]
    assert sum(shares) == pytest.approx(100, abs=0.2)
    assert [part.split()[0] for part in page.locator("#legend li").all_inner_texts()] == [
        "upload", "decode", "queue", "compute", "network",
    ]  # fmt: skip
    assert "CPUExecutionProvider" in page.locator("#who").inner_text()


def test_a_picture_can_be_dropped_and_a_refusal_is_said_in_words(page, tmp_path):
    (tmp_path / "square.png").write_bytes(png(draw_shape(1, np.random.default_rng(5))))
    page.locator("#file").set_input_files(tmp_path / "square.png")
    _answered(page)
    assert page.get_by_role("status").inner_text().startswith("square.png: ")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    page.locator("#file").set_input_files(tmp_path / "broken.png")
    page.wait_for_selector("#status.bad")
    assert "damaged" in page.get_by_role("status").inner_text()
    page.problems.clear()  # the browser notes the 400 in its console


def test_a_drawn_clip_is_answered_over_its_seconds_by_the_model_that_takes_clips(page):
    page.get_by_role("button", name="frog: turning").press("Enter")
    page.wait_for_selector("#moments:not([hidden])")
    assert page.get_by_role("status").inner_text().startswith("frog: turning: ")
    assert page.locator("#preview-clip").evaluate("clip => !clip.hidden && clip.videoWidth") == 128
    rows = page.locator("#classes li")
    assert rows.count() == 2
    shares = []
    for i in range(2):
        heights = rows.nth(i).locator(".strip i").evaluate_all("list => list.map(i => parseFloat(i.style.height))")
        said = rows.nth(i).get_by_role("img").get_attribute("aria-label")
        assert said.endswith(f"{heights[-1]:.1f}%")
        shares.append(heights)
    assert len(shares[0]) == 2
    np.testing.assert_allclose(np.sum(shares, axis=0), 100, atol=0.2)
    assert "clips, version" in page.locator("#who").inner_text()
    assert page.get_by_label("Model").input_value() == "clips"
    page.locator("#worth-lead").get_by_text("The robustness of clips").wait_for()
    assert page.evaluate("document.activeElement.textContent") == "frog: turning"
    page.get_by_role("button", name="frog", exact=True).click()
    page.locator("#who").get_by_text("shapes, version").wait_for()
    assert page.locator("#moments").is_hidden()
    assert page.locator("#preview-clip").is_hidden()


def test_the_model_can_be_chosen_and_everything_is_reached_by_the_keyboard(page):
    page.get_by_label("Model").select_option("other")
    page.get_by_role("button", name="frog", exact=True).click()
    _answered(page)
    assert "other, version" in page.locator("#who").inner_text()
    page.locator("body").evaluate("document.activeElement.blur()")
    reached = set()
    for _ in range(16):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
    assert {"model", "file", "ship", "airplane", "automobile", "frog", "frog: turning"} <= reached


def test_names_roles_and_captions_are_there_for_a_screen_reader(page):
    assert page.get_by_role("heading", level=1).count() == 1
    assert page.get_by_role("table", name="Measured on").count() == 1
    assert page.locator("img:not([alt])").count() == 0
    assert page.evaluate("[...document.querySelectorAll('input,select')].filter(e => !e.labels.length).length") == 0
    assert page.locator("html").get_attribute("lang") == "en"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1100])
def test_nothing_runs_over_the_edge_and_text_stands_out_in_either_scheme(page, width, scheme):
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    page.get_by_role("button", name="ship", exact=True).click()
    _answered(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for selector in ("#status", "header p", "#limits li", "#legend li"):
        assert _contrast(page, selector) >= 4.5, selector


def _contrast(page, selector: str) -> float:
    """WCAG 2 contrast of an element's text with the first opaque ground behind it."""
    colours = page.evaluate(
        """(selector) => {
          let node = document.querySelector(selector), ground;
          const text = getComputedStyle(node).color;
          do { ground = getComputedStyle(node).backgroundColor; node = node.parentElement; }
          while (ground === "rgba(0, 0, 0, 0)" && node);
          return [text, ground];
        }""",
        selector,
    )

    def light(colour: str) -> float:
        parts = [int(v) / 255 for v in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted(light(colour) for colour in colours)
    return (high + 0.05) / (low + 0.05)


def test_the_page_may_load_nothing_from_elsewhere(server):
    answer = httpx.get(f"{server.client.base_url}/")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert httpx.get(f"{server.client.base_url}/page/page.js").status_code == 200
    assert httpx.get(f"{server.client.base_url}/page/../app.py").status_code in (401, 404)
