"""The web page in a real browser computes what PyTorch computes, and does what it says."""

import json

import pytest
import torch
from conftest import ROOT
from PIL import Image
from torch.testing import assert_close

from docs import export
from inference import load_models
from support.pictures import to_uint8

pytestmark = pytest.mark.xdist_group("page")  # one browser
DOCS = ROOT / "docs"
# a worker without networks, which is slow, and answers even the jobs that were replaced
STUB = """onmessage = ({data: {key, from, digit, start}}) => setTimeout(() => {
    const guess = new Uint8Array(784).fill(250), send = (key, k, digit, push) =>
        postMessage({key, k, guess, p: Array(10).fill(0).with(digit % 10, 1), push});
    for (let k = from[3] ? 12 : 0; k < 21; k++) send(from, k, +from[0]);
    for (let k = start + 1; k < 21; k++) send(key, k, +from[0] + 3 * digit + start, guess);
    postMessage({key, isDone: true});
}, 20 + 60 * Math.random());"""
# whether the page is about the film in the address, as this worker computes it
AGREES = """() => {
    const at = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
    const start = at.start === 'never' ? 20 : at.start - 1, $ = (id) => document.querySelector(id);
    return `${[$('#digits :checked').value, $('#start').value - 1, $('#push').hidden,
        $('#strength-text').textContent, $('#start').min, $('#tag-noise').textContent,
        $('#sentence').className, $('#sentence').textContent.match(/an? (\\d)/)?.[1]]}`
        === `${[at.digit, start, start === 20, `×${at.strength}`,
        ...(at.from?.[3] ? [13, 'your drawing', ''] : [1, 'noise', '']),
        (+at.from?.[0] + (start < 20 ? 3 * at.digit + start : 0)) % 10]}`;
}"""
FILM = """(place) => import('./films.js').then((films) => films.findFilms(place).pushed)
    .then(({guesses, ps}) => [guesses.slice(1).map((grays) => [...grays]), ps])"""
CROWDED = """() => {
    const boxes = (selector) => [...document.querySelectorAll(selector)]
        .map((node) => node.getBoundingClientRect()).filter(({width}) => width > 0);
    return boxes('button, input, summary').some((a) => Math.min(a.width, a.height) < 40)
        || boxes('#film, .result, #when, #sentence, fieldset, #tools, #sheet, #conclusion')
            .some((a, i, all) => all.slice(0, i).some((b) => a.left < b.right - 1
                && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1))
        || document.documentElement.scrollWidth > innerWidth;
}"""
ACT = """([kind, a, b]) => {
    const $ = (id) => document.getElementById(id), place = {clientX: a, clientY: b};
    const slide = (id, value) => $(id).dispatchEvent(new Event('input', ($(id).value = value, {})));
    const click = (id) => $(id).dispatchEvent(new PointerEvent('click', place));
    [() => $('digits').children[a % 10].click(), () => slide('start', 1 + a % 21),
        () => slide('strength', a % 11), () => $('new').click(), () => click('sheet'),
        () => click('films'), () => history.back(), () => history.forward(),
        () => (location.hash = `from=1${'06af'.repeat(98)}&start=${a % 22}`),
        () => (location.hash = `from=${a}&digit=${b % 12}&start=${b % 25}`)][kind % 10]();
}"""
HAS_INK = """(id) => document.getElementById(id).getContext('2d').getImageData(0, 0, 999, 999)
    .data.some((alpha, i, data) => alpha > 254 && data[i - 1] + data[i - 2] + data[i - 3] < 240)"""
KEYS = [  # the element, a key, and what the address then says
    ("#digits :checked", "ArrowRight", "from=7&digit=6&start=9&strength=1"),
    ("#start", "ArrowRight", "start=10"),
    ("#start", "End", "start=never"),
    ("#strength", "ArrowRight", "strength=2"),
    ("#sheet", "ArrowLeft", "digit=6&start=20"),
]


@pytest.fixture
def open_page(browser, served):
    """A function that opens the page. At the end, nothing may be in the console."""
    problems = []

    def new(hash="", blocked=None, stub=STUB, width=1280, height=800, motion="reduce"):
        size = {"width": width, "height": height}
        page = browser.new_page(viewport=size, reduced_motion=motion)
        js = {"body": stub, "content_type": "text/javascript"}
        path = f"**/{blocked or 'worker.js'}"  # if a file is blocked, the real worker computes
        page.route(path, lambda route: route.abort() if blocked else route.fulfill(**js))
        page.on("console", lambda message: blocked or problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"{served}/docs/index.html{hash}")
        return page

    yield new
    for context in browser.contexts:
        context.close()
    assert not problems


def test_the_exported_files_are_up_to_date(tmp_path):
    ddpm, classifier = load_models()
    export.export_weights(tmp_path, ddpm, classifier)
    export.export_constants(tmp_path, ddpm)
    export.export_films(tmp_path, ddpm, classifier)
    for name in ("weights.bin", "weights.json", "constants.js"):
        assert (tmp_path / name).read_bytes() == (DOCS / name).read_bytes(), name
    new, old = [Image.open(folder / "first.png").getdata() for folder in (tmp_path, DOCS)]
    assert max(abs(a - b) for a, b in zip(new, old)) <= export.LEVEL  # on another machine
    new, old = [json.loads((folder / "first.json").read_text()) for folder in (tmp_path, DOCS)]
    assert_close(torch.tensor(new["results"]), torch.tensor(old["results"]), atol=3, rtol=0)
    assert sum(path.stat().st_size for path in DOCS.glob("first.*")) < 100_000
    binary = pytest.importorskip("wasmtime").wat2wasm((DOCS / "conv.wat").read_text())
    assert bytes(binary) == (DOCS / "conv.wasm").read_bytes()


@pytest.mark.parametrize("noise, digit, start, s", [(5, 5, 8, 1), (5, 3, 16, 1), (7, 8, 3, 3)])
def test_every_frame_of_a_film_is_that_of_python(open_page, noise, digit, start, s):
    hash = f"#from={noise}&digit={digit}&start={start + 1}&strength={s}"
    page, (ddpm, classifier) = open_page(hash, blocked="first.*"), load_models()
    page.wait_for_selector("#sentence:not(.old):not(:empty)")
    place = {"from": f"{noise}", "digit": digit, "start": start, "strength": s}
    guesses, p = page.evaluate(FILM, place)
    for network in (ddpm.unet, classifier):
        network.half().float()  # as on the page
    films = export.films(ddpm, classifier, noise, torch.tensor([(digit, start)]), s)
    expected = to_uint8(films[0][0, 1:]).flatten(1)  # before, the page shows the noise
    assert_close(torch.tensor(guesses), expected, atol=2, rtol=0, check_dtype=False)
    assert_close(torch.tensor(p), films[1][0], atol=0.01, rtol=0)


def test_the_first_screen_needs_no_networks(open_page):
    page = open_page(blocked="weights.bin")
    page.locator("#sentence", has_text="The classifier sees a 5 (99%). Do you?").wait_for()
    assert page.is_visible("#push") and not page.inner_text("#progress")  # all results are there
    assert all(map(all, page.evaluate(FILM, {"from": "5", "digit": 5, "start": 8, "strength": 1})))
    assert all(page.evaluate(HAS_INK, f"result-{name}") for name in ("alone", "pushed"))
    page.click("#new")
    page.locator("#status", has_text="cannot").wait_for()
    links = page.evaluate("[...document.querySelectorAll('a[data-path]')].map((a) => a.href)")
    assert links and all(page.request.get(link).ok for link in links)
    page.goto((DOCS / "index.html").as_uri())
    assert "python3 -m http.server" in page.inner_text("#status")
    assert Image.open(DOCS / "preview.png").size == (1200, 630)


def test_a_click_stops_the_glide_and_the_newest_click_is_answered_first(open_page):
    stub = STUB.replace("20 + 60 * Math.random()", "digit === 8 ? 20 : 1e6")
    page = open_page(motion="no-preference", stub=stub)
    page.wait_for_function("document.querySelector('#start[min]')?.value > 9")
    page.click("#new")  # which the worker never answers
    page.wait_for_selector("#sentence.old")  # about the old noise
    page.click("#digits label:nth-child(9)")
    page.wait_for_selector("#sentence:not(.old)")
    page.wait_for_timeout(500)
    assert f"digit=8&start={page.input_value('#start')}&" in page.evaluate("location.hash")


def test_every_control_works_with_the_keyboard(open_page):
    page = open_page("#from=7")
    entries = page.evaluate("history.length")
    for selector, key, expected in KEYS:
        page.focus(selector)
        page.keyboard.press(key)
        page.wait_for_function("(text) => location.hash.includes(text)", arg=expected)
        page.wait_for_function(AGREES)
    assert page.evaluate("history.length") == entries  # keys replace the current one
    page.focus("#new")
    for key in ("Enter", "Tab", "Space"):
        page.keyboard.press(key)
    assert page.is_visible("#drawing") and "from=7&" not in page.evaluate("location.hash")
    page.keyboard.press("Escape")
    assert not page.is_visible("#drawing") and page.evaluate("document.activeElement.id") == "draw"


@pytest.mark.parametrize("width, height", [(390, 844), (320, 640), (768, 1024), (1280, 800)])
def test_nothing_is_small_or_covered_or_cut_off(open_page, width, height):
    page = open_page(width=width, height=height)
    for start in ("1", "9", "17", "never"):
        page.evaluate("(start) => (location.hash = `start=${start}`)", start)
        page.wait_for_timeout(300)
        assert not page.evaluate(CROWDED)
    assert page.locator("#start").bounding_box()["y"] < height - 40  # without scrolling
    page.click("#draw")
    box = page.locator("#pad").bounding_box()
    assert box["y"] >= 0 and box["y"] + box["height"] <= height and box["width"] <= width


def test_a_drawing_survives_a_reload(open_page):
    page = open_page()
    page.click("#draw")
    top, bottom = {"x": 100, "y": 50}, {"x": 100, "y": 200}
    page.drag_and_drop("#drawing", "#drawing", source_position=top, target_position=bottom)
    assert page.evaluate(HAS_INK, "result-pushed")  # the old result, until there is another
    page.wait_for_function(AGREES)
    hash = page.evaluate("location.hash")
    page.reload()
    page.wait_for_function(AGREES)
    page.click("#draw")
    assert page.evaluate("location.hash") == hash and page.evaluate(HAS_INK, "drawing")


def test_a_hundred_random_actions_end_in_the_state_of_the_address(open_page):
    page = open_page("#from=3")
    page.evaluate("for (let k = 0; k < 50; k++) history.pushState(null, '', location)")
    for number in range(1, 101):
        page.evaluate(ACT, torch.randint(1300, (3,)).tolist())
        page.wait_for_timeout(number % 7 * 10)
        if number % 6 == 0:
            page.wait_for_timeout(300)  # until the address is written
            page.wait_for_function(AGREES)
