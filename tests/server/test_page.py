"""The page in a real browser, on a real server with the shipped models."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.browser import CHROMIUM, Browser, Page
from tests.server.service import Service

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

ROOT = Path(__file__).parents[2]
MAX_BODY_BYTES = 100_000
ANSWERED = "!document.getElementById('answer').hidden && !document.querySelector('.busy')"
REFUSED = "!document.getElementById('error').hidden && !document.querySelector('.busy')"


@pytest.fixture(scope="module")
def shipped() -> Iterator[Service]:
    with Service(ROOT / "models", max_body_bytes=MAX_BODY_BYTES) as running:
        yield running.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as running:
        yield running


@pytest.fixture
def page(browser: Browser, shipped: Service) -> Iterator[Page]:
    """The page as it opens, in a wide window; afterwards its console must not have complained."""
    opened = browser.open(f"http://127.0.0.1:{shipped.port}/")
    opened.resize(1280, 900)
    opened.wait("!document.getElementById('columns').hidden")
    yield opened
    complaints = [
        problem for problem in opened.problems if "Failed to load resource" not in problem
    ]  # our own refusals
    assert not complaints
    opened.send("Page.close")


def rows(page: Page, table: str) -> list[list[str]]:
    """Texts of the cells of a table's rows."""
    script = f"[...document.querySelectorAll('#{table} tr')].map((row) => [...row.cells].map((cell) => cell.innerText))"
    found: list[list[str]] = page.evaluate(script)
    return found


def ask_server(shipped: Service, name: str, query: str) -> dict[str, object]:
    """Answer of the server to an example, without a browser."""
    content = (ROOT / "examples" / name).read_bytes()
    found: dict[str, object] = httpx.post(f"http://127.0.0.1:{shipped.port}/predict?{query}", content=content).json()
    return found["predictions"][0]  # type: ignore[index,no-any-return]


def percent(value: object) -> str:
    assert isinstance(value, float)
    return f"{100 * value:.1f} %"


def test_an_example_is_one_click_away(page: Page, shipped: Service) -> None:
    expected = ask_server(shipped, "fashion-mnist/pullover-1.png", "top_k=5")
    assert page.text("#status") == "Take an example, or something of your own."
    page.click("#examples button[data-name='pullover-1']")
    page.wait(ANSWERED)
    assert page.text("#verdict") == f"Pullover {percent(expected['probability'])}"
    assert page.text("#truth") == "In truth: Pullover. The vote is right."
    top, heads = expected["top_k"], expected["heads"]
    assert isinstance(top, list)
    assert isinstance(heads, list)
    assert rows(page, "vote") == [[one["label"], "", percent(one["probability"])] for one in top]
    assert rows(page, "opinions") == [
        [f"head {one['head']}", "", f"{one['label']}, {percent(one['probability'])}"] for one in heads
    ]
    widths = page.evaluate(
        "[...document.querySelectorAll('#vote .bar span')].map((one) => parseFloat(one.style.width))"
    )
    assert widths == pytest.approx([100 * one["probability"] for one in top], abs=0.01)
    assert page.text("#disagreement") == "Disagreement: none, all of them have the same first choice."
    assert [row[0] for row in rows(page, "timing")] == [
        "decoding", "waiting", "computing", "network and browser", "total on the server",
    ]  # fmt: skip
    assert all(row[2].endswith(" ms") for row in rows(page, "timing"))
    assert page.evaluate("document.getElementById('reduced').width") == 28
    assert page.evaluate("location.hash") == "#model=fashion-mnist&example=pullover-1"
    assert page.evaluate("document.querySelector('#examples [aria-pressed=true]').dataset.name") == "pullover-1"


def test_what_is_announced_to_those_who_listen(page: Page) -> None:
    page.click("#examples button[data-name='bag-18']")
    page.wait(ANSWERED)
    nodes = page.send("Accessibility.getFullAXTree")["nodes"]
    said = [
        child["name"]["value"]
        for node in nodes
        if node.get("role", {}).get("value") == "status"
        for child in nodes
        if child.get("parentId") == node["nodeId"]
    ]
    assert any(sentence.startswith("Bag, ") and sentence.endswith("All 3 heads voted.") for sentence in said)
    asking = [
        node
        for node in nodes
        if node.get("role", {}).get("value") in ("button", "combobox", "slider", "checkbox", "textbox", "link")
    ]
    assert len(asking) > 10
    assert [node for node in asking if not node["name"]["value"].strip()] == []
    assert page.evaluate("document.querySelectorAll('[aria-labelledby]').length") == page.evaluate(
        "[...document.querySelectorAll('[aria-labelledby]')]"
        ".filter((one) => document.getElementById(one.getAttribute('aria-labelledby'))).length"
    )


def test_the_keyboard_is_enough(page: Page) -> None:
    """From the top: along the controls to an example, to ask it; on to the slider, to ask one head."""
    for _ in range(40):
        page.press("Tab")
        if page.evaluate("document.activeElement.dataset.name") == "ankle-boot-0":
            break
    assert page.evaluate("document.activeElement.matches(':focus-visible')")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.press("Enter")
    page.wait(ANSWERED)
    assert page.text("#verdict-label") == "Ankle boot"
    while page.evaluate("document.activeElement.id") != "heads":
        page.press("Tab")
    page.press("ArrowLeft")
    assert page.text("#heads-value") == "3 of 3"
    page.press("ArrowLeft")
    page.wait("document.getElementById('why').innerText == '2 heads of 3 voted, as you asked.'")
    page.press("Home")
    page.wait("document.getElementById('why').innerText == '1 head of 3 voted, as you asked.'")
    assert page.evaluate("document.getElementById('heads').getAttribute('aria-valuetext')") == "1 of 3"
    assert [row[2] for row in rows(page, "opinions")][1:] == ["not asked"] * 2
    assert page.text("#disagreement") == "Disagreement: a single head has nobody to disagree with."
    assert "heads=1" in page.evaluate("location.hash")
    page.press("End")
    page.wait("document.getElementById('why').innerText == 'All 3 heads voted.'")


def test_stopping_early(page: Page, shipped: Service) -> None:
    expected = ask_server(shipped, "fashion-mnist/trouser-2.png", "min_confidence=0.95")
    page.click("#examples button[data-name='trouser-2']")
    page.wait(ANSWERED)
    page.click("#early")
    page.wait("document.getElementById('why').innerText.startsWith('The vote was sure enough after')")
    used = expected["heads_used"]
    assert expected["stopped_by"] == "early_exit"
    assert page.text("#why") == f"The vote was sure enough after {used} head{'s' * (used != 1)} of 3."
    assert "1.50 heads on average, 93.3 % right" in page.text("#early-hint")


def test_a_text_of_ones_own(page: Page) -> None:
    page.evaluate("document.getElementById('model').focus()")
    page.evaluate("(document.getElementById('model').value = 'newsgroups')")
    page.evaluate("document.getElementById('model').dispatchEvent(new Event('change'))")
    assert "20 classes" in page.text("#about")
    assert "first 256 pieces of words" in page.text("#limits")
    page.click("#text")
    page.type('the goalie saved every shot of the {"inputs": []} playoffs <b>tonight</b>')
    page.click("#text-part button")
    page.wait(ANSWERED)
    assert page.text("#verdict-label") == "rec.sport.hockey"
    assert "<b>tonight</b>" in page.text("#seen-text")
    assert page.text("#truth") == "Your own input: the model may be sure and wrong. Mind what it cannot do."
    assert page.evaluate("location.hash") == ""
    assert len(rows(page, "vote")) == 5


def test_a_photo_is_answered_with_a_warning_beside_it(page: Page, tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    Image.effect_noise((400, 300), 90).convert("RGB").save(photo, quality=40)
    assert "A photo from a phone is another world" in page.text("#limits")
    assert "names one of them for everything" in page.text("#limits")
    page.choose_file("#file", photo)
    page.wait(ANSWERED)
    assert page.text("#truth") == "Your own input: the model may be sure and wrong. Mind what it cannot do."
    assert page.evaluate("location.hash") == ""
    assert page.text("#reduced-caption") == "About what the model sees: 28 x 28 in grey"
    pixels = page.evaluate(
        "[...document.getElementById('reduced').getContext('2d').getImageData(0, 0, 28, 28).data.slice(0, 4000)]"
    )
    assert pixels[0::4] == pixels[1::4] == pixels[2::4]
    assert "curl --data-binary @'photo.jpg'" in page.evaluate("document.getElementById('curl').textContent")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("notes.bmp", b"\x00\x01\x02" * 100, "That is neither a picture nor a text that this server reads."),
        ("large.png", b"\x89PNG" + bytes(MAX_BODY_BYTES), "That is too big for this server."),
        ("cut.png", (ROOT / "examples/fashion-mnist/bag-18.png").read_bytes()[:100], "The server cannot use this."),
    ],
)
def test_refusals_in_plain_words(page: Page, tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    page.choose_file("#file", tmp_path / name)
    page.wait(REFUSED)
    assert page.text("#error-words") == words
    assert len(page.text("#error-sentence")) > 20
    assert page.evaluate("document.getElementById('error').getAttribute('role')") == "alert"
    page.click("#examples button[data-name='bag-18']")
    page.wait(ANSWERED)
    assert page.evaluate("document.getElementById('error').hidden")


def test_an_answer_that_comes_too_late(browser: Browser, models: Path) -> None:
    with Service(models, timeout_seconds=1e-6) as running:
        page = browser.open(f"http://127.0.0.1:{running.wait().port}/#model=tiny-text")
        page.wait("!document.getElementById('columns').hidden")
        assert page.evaluate("document.getElementById('examples-part').hidden"), "there are examples of no such model"
        page.click("#text")
        page.type("ball game")
        page.click("#text-part button")
        page.wait(REFUSED)
        assert page.text("#error-words") == "The answer took too long."
        page.send("Page.close")


def test_a_server_that_is_gone_is_said_and_asked_again(browser: Browser) -> None:
    with Service(ROOT / "models") as running:
        page = browser.open(f"http://127.0.0.1:{running.port}/#model=fashion-mnist&example=dress-13")
        page.wait(ANSWERED)  # the page waits until the models are loaded, and then asks what the fragment says
        assert page.text("#verdict-label") == "Dress"
    page.click("#examples button[data-name='bag-18']")
    page.wait(REFUSED)
    assert page.text("#error-words") == "The server cannot be reached, or its answer cannot be read."
    assert page.text("#again") == "Try again"
    page.send("Page.close")


@pytest.mark.parametrize("width", [320, 760, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_cut_off(page: Page, width: int, dark: bool, tmp_path: Path) -> None:
    page.resize(width, 800, dark=dark)
    page.click("#examples button[data-name='sneaker-9']")
    page.wait(ANSWERED)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    inside = page.evaluate("document.getElementById('answer-panel').getBoundingClientRect().top < innerHeight")
    assert inside, "the answer is below the window"
    ink, paper = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    brightness = [sum(map(int, colour[4:-1].split(","))) for colour in (ink, paper)]
    assert (brightness[0] > brightness[1]) == dark
    page.screenshot(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as picture:
        assert picture.width == width
        assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 20
