"""The web page in a real browser computes what PyTorch computes, and does what it says."""

import json

import pytest
import torch
from conftest import ROOT
from PIL import Image
from torch.testing import assert_close

from docs import export
from evaluation.judge import load_judge
from inference import load_models
from support.files import MODELS, sha256
from support.pictures import to_uint8

pytestmark = pytest.mark.xdist_group("page")  # one browser
DOCS = ROOT / "docs"
# a worker without networks, which is slow, and answers even the jobs that were replaced
STUB = """onmessage = ({data: {key, noise, digit, start}}) => setTimeout(() => {
    const guess = new Uint8Array(784).fill(250), hot = (y) => Array(10).fill(0).with(y % 10, 1);
    const send = (key, k, y, push) => postMessage({key, k, guess, p: hot(y), push});
    for (let k = 0; k < 21; k++) send(`${noise}`, k, noise);
    for (let k = start + 1; k < 21; k++) send(key, k, noise + 3 * digit + start, guess);
    postMessage({key, isDone: true, q: hot(start < 20 ? noise + 3 * digit + start + 1 : noise)});
}, 20 + 60 * Math.random());"""
# whether the page is about the film in the address, as this worker computes it
AGREES = """() => {
    const at = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
    const start = at.start === 'never' ? 20 : at.start - 1, $ = (id) => document.querySelector(id);
    const own = start < 20 ? 3 * at.digit + start : 0;
    return `${[$('#digits :checked').value, $('#start').value - 1, $('#push').hidden, $('#strengths'
        + ' :checked').value, $('#sentence').className, $('#sentence').textContent.match(/an? (\\d)/)?.[1]]}`
        === `${[at.digit, start, start === 20, at.strength, '', (+at.noise + own) % 10]}`;
}"""
FILM = """(place) => import('./films.js').then(({findFilms, findResult, revealJudge}) => {
    const {guesses, ps} = findFilms(place).pushed, q = (revealJudge(), findResult(place)?.q);
    return q && ps.every(Boolean) && [guesses.slice(1).map((grays) => [...grays]), ps, q];
})"""
CROWDED = """() => {
    const boxes = (selector) => [...document.querySelectorAll(selector)]
        .map((node) => node.getBoundingClientRect()).filter(({width}) => width > 0);
    const isOver = (a, b) => a.left < b.right - 1 && b.left < a.right - 1
        && a.top < b.bottom - 1 && b.top < a.bottom - 1;
    return boxes('button, input, summary').some((a) => Math.min(a.width, a.height) < 38)
        || boxes('#film, .result, #when, #closing, fieldset, #new, #sheet, #conclusion')
            .some((a, i, all) => all.slice(0, i).some((b) => isOver(a, b)))
        || boxes('#sentence, .answer').some((a) =>
            boxes('.tag, #push, .result, #when').some((b) => isOver(a, b)))
        || document.documentElement.scrollWidth > innerWidth;
}"""
ACT = """([kind, a, b]) => {
    const $ = (id) => document.getElementById(id), place = {clientX: a, clientY: b};
    const slide = (to) => $('start').dispatchEvent(new Event('input', ($('start').value = to, {})));
    const click = (id) => $(id).dispatchEvent(new PointerEvent('click', place));
    [() => $('digits').children[a % 10].click(), () => slide(1 + a % 21), () => click('chart'),
        () => $('strengths').children[a % 3].click(), () => click('new'), () => click('sheet'),
        () => click('films'), () => history.back(), () => history.forward(), () => click('no'),
        () => (location.hash = `noise=${1 + a % 999}&digit=${b % 12}&start=${b % 25}`)][kind % 11]();
}"""
# what the page says if the two gave up at these starts, and the visitor answered so
ENDING = """([classifier, judge, answers]) => import('./words.js').then(({closing}) => {
    const see = (isSeen) => Array(10).fill(0).with(isSeen ? 5 : 3, 1);
    const one = (start) => ({start, p: see(start < classifier), you: [false, true][answers[start]],
        q: see(start < judge && start !== judge - 3)});
    return closing({digit: 5}, [...Array(21).keys()].map(one), null);
})"""
# between which starts there are the lines of classifier and judge, if only some are known
LINES = """(starts) => import('./chart.js').then(({drawChart}) => {
    const known = {p: Array(10).fill(0.75), q: Array(10).fill(0.25)};
    const all = [...Array(21).keys()].map((start) => ({start, ...starts.includes(start) && known}));
    drawChart({digit: 5, start: 0}, all, {size: 40, stride: 1, gap: 70}, 1);
    const canvas = document.getElementById('chart'), {width} = canvas;
    const {data} = canvas.getContext('2d').getImageData(0, 0, width, 90);
    const isColored = (color, x, y) => color.every((c, k) =>
        Math.abs(data[4 * (y * width + x) + k] - c) < 40);
    return [[191, 74, 0, 255], [28, 27, 25, 255]].map((color) => [...Array(20).keys()].filter((i) =>
        [...Array(50).keys()].some((y) => isColored(color, 95 + 40 * i, 40 + y))));
})"""
ENDINGS = [  # when classifier and judge gave up, the answers of the visitor, what the page says
    (
        20,
        17,
        {15: 1, 16: 0},
        "You gave up at step 17, the judge at 18, the classifier never. Never let",
    ),
    (
        20,
        10,
        {3: 0, 15: 1, 18: 0},
        "between step 16 and 19, the judge at 11, the classifier never. Never",
    ),
    (
        19,
        19,
        {9: 1, 11: 0},
        "at step 11 or 12, the judge at 20, the classifier at 20. The judge was fooled as",
    ),
    (
        17,
        19,
        {9: 1, 10: 0},
        "at step 11, the judge at 20, the classifier at 18. The judge was fooled even",
    ),
    (17, 12, {17: 1, 18: 0}, "at step 19, the judge at 13, the classifier at 18. This time"),
    (20, 17, {15: 1}, "later"),
    (20, 17, {15: 0}, "earlier"),
    (20, 17, {}, "Answer"),
]
KEYS = [  # the element, a key, and what the address then says
    ("#digits :checked", "ArrowRight", "noise=7&digit=7&start=18&strength=1"),
    ("#start", "ArrowLeft", "start=17"),
    ("#start", "End", "start=never"),
    ("#strengths :checked", "ArrowRight", "strength=10"),
    ("#sheet", "ArrowLeft", "digit=7&start=20"),
]


@pytest.fixture
def open_page(browser, served):
    """A function that opens the page. At the end, nothing may be in the console."""
    problems = []

    def new(hash="", blocked=None, stub=STUB, width=1280, height=800, **settings):
        settings = {"reduced_motion": "reduce"} | settings
        page = browser.new_page(viewport={"width": width, "height": height}, **settings)
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
    networks = [*load_models(), load_judge()[0]]
    export.export_weights(tmp_path, *networks[:2])
    export.export_judge(tmp_path, networks[2])
    export.export_constants(tmp_path, networks[0])
    export.export_films(tmp_path, networks)
    for name in ("weights.bin", "weights.json", "judge.bin", "constants.js"):
        assert (tmp_path / name).read_bytes() == (DOCS / name).read_bytes(), name
    new, old = [Image.open(folder / "first.png").getdata() for folder in (tmp_path, DOCS)]
    assert max(abs(a - b) for a, b in zip(new, old)) <= export.LEVEL  # on another machine
    new, old = [json.loads((folder / "first.json").read_text()) for folder in (tmp_path, DOCS)]
    for name in ("results", "judged"):
        assert_close(torch.tensor(new[name]), torch.tensor(old[name]), atol=3, rtol=0)
    hashes = json.loads((DOCS / "count.json").read_text())["sha256"]
    assert hashes == {name: sha256(MODELS / name) for name in hashes} and len(hashes) == 3
    assert sum(path.stat().st_size for path in DOCS.glob("first.*")) < 100_000
    binary = pytest.importorskip("wasmtime").wat2wasm((DOCS / "conv.wat").read_text())
    assert bytes(binary) == (DOCS / "conv.wasm").read_bytes()


def test_the_count_of_who_gives_up_first(tmp_path, monkeypatch):
    def films(ddpm, classifier, judge, noise, y):  # noise 1 becomes a 0, noise 2 a 1
        seen = torch.stack([y[:, 1] < 15, (y[:, 1] < y[:, 0] + 11) & (y[:, 1] != 3)])
        read = torch.where(seen, y[:, 0], noise - 1)  # (2, B)
        read[:, -1] = noise - 1
        p, q = torch.eye(10)[read]
        return None, p[:, None], None, q

    monkeypatch.setattr(export, "films", films)
    monkeypatch.setattr(export, "NOISE", 0)
    export.export_count(tmp_path, [None] * 3, 2)
    digits = json.loads((tmp_path / "count.json").read_text())["digits"]
    assert digits == [[1, 0, 0]] * 2 + [[2, 0, 0]] * 2 + [[0, 2, 0]] + [[0, 0, 2]] * 5


@pytest.mark.parametrize("noise, digit, start, s", [(0, 6, 17, 1), (0, 3, 12, 1), (7, 8, 3, 10)])
def test_every_frame_of_a_film_is_that_of_python(open_page, noise, digit, start, s):
    hash = f"#noise={noise}&digit={digit}&start={start + 1}&strength={s}"
    page, networks = open_page(hash, blocked="first.*"), [*load_models(), load_judge()[0]]
    place = {"noise": noise, "digit": digit, "start": start, "strength": s}
    while not (film := page.evaluate(FILM, place)):
        page.wait_for_timeout(200)
    guesses, p, q = film
    for network in networks[0].unet, networks[1]:
        network.half().float()  # as on the page
    films = export.films(*networks, noise, torch.tensor([(digit, start)]), s)
    expected = to_uint8(films[0][0, 1:]).flatten(1)  # before, the page shows the noise
    assert_close(torch.tensor(guesses), expected, atol=2, rtol=0, check_dtype=False)
    assert_close(torch.tensor(p), films[1][0], atol=0.01, rtol=0)
    assert_close(torch.tensor(q), films[3][0], atol=0.01, rtol=0)


def test_the_first_screen_needs_no_networks(open_page):
    page = open_page(blocked="weights.bin")
    page.locator("#sentence", has_text="The classifier sees a 6 (99%). Do you?").wait_for()
    assert page.is_visible("#push") and not page.inner_text("#progress")  # all results are there
    place = {"noise": export.NOISE, "digit": export.DIGIT, "start": export.START, "strength": 1}
    assert all(map(all, page.evaluate(FILM, place)))
    page.click("#new")
    page.locator("#status", has_text="cannot").wait_for()
    for link in page.locator("a[href^='../']").all():
        assert page.request.get(link.evaluate("(a) => a.href")).ok
    page.goto((DOCS / "index.html").as_uri())
    assert "python3 -m http.server" in page.inner_text("#status")
    page = open_page(java_script_enabled=False)
    assert page.get_by_text("needs JavaScript").bounding_box()["y"] < 200
    assert Image.open(DOCS / "preview.png").size == (1200, 630)


def test_the_judge_delays_no_film_and_may_be_missing(open_page):
    page = open_page("#start=20", blocked="{first.*,judge.bin}")
    with page.expect_request("**/judge.bin"):
        page.locator("#sentence", has_text="The classifier sees").wait_for()
    page.locator("#status", has_text="judge is missing").wait_for()


@pytest.mark.parametrize("button", ["#no", "#judge"])
def test_the_judge_is_hidden_until_a_visitor_wants_it(open_page, button):
    page = open_page("#noise=5&digit=8&start=11&strength=1")
    page.wait_for_function("document.querySelector('#chart').ariaLabel?.startsWith('Of 21')")
    page.locator("#sheet").scroll_into_view_if_needed()
    page.locator("#conclusion", has_text="In how many do you?").wait_for()
    page.click("#yes")
    page.wait_for_selector("#yes[aria-pressed=true]")
    places = ("#sentence", "#conclusion", "#closing", "#tinted", "#measured", "#key")
    assert not any("judge" in page.inner_text(place) for place in places if page.is_visible(place))
    label = "document.querySelector('#chart').ariaLabel.includes('the judge')"
    assert not page.evaluate(label) and "--q: 1" not in page.inner_html("#digits")
    page.click(button)
    page.locator("#conclusion", has_text="the judge").wait_for()
    assert all("judge" in page.inner_text(place) for place in places if place != "#closing")
    assert page.evaluate(label) and "--q: 1" in page.inner_html("#digits")
    assert not page.is_visible("#judge")


def test_an_answer_belongs_to_the_picture_that_was_seen(open_page):
    page = open_page("#noise=5&digit=8&start=11&strength=1", stub=STUB.replace("20 + ", "900 + "))
    page.click("#no", force=True)  # nothing is there yet
    page.wait_for_function(AGREES)
    page.click("#yes")
    page.wait_for_selector("#yes[aria-pressed=true]")
    page.press("#start", "ArrowLeft")
    page.wait_for_selector("#yes[aria-pressed=false]")
    page.click("#no", force=True)  # while the picture is computed
    page.wait_for_function(AGREES)
    assert page.is_visible("#judge") and not page.query_selector("#no[aria-pressed=true]")
    page.press("#start", "ArrowRight")
    page.wait_for_selector("#yes[aria-pressed=true]")
    page.press("#yes", "Space")  # takes it back
    page.wait_for_selector("#yes[aria-pressed=false]")


def test_the_ending_is_true(open_page):
    page = open_page()
    for *case, expected in ENDINGS:
        said = " ".join(page.evaluate(ENDING, case).replace("<b>", "").split())
        assert expected in said, case


def test_the_chart_joins_neighbors_and_moves_the_start(open_page):
    page = open_page("#noise=5", width=1000)
    assert page.evaluate(LINES, [0, 4, 5, 12, 19, 20]) == [[4, 19], [4, 19]]
    box = page.locator("#start").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] - 30)
    page.wait_for_function("location.hash.includes('start=11&')")


def test_every_control_works_with_the_keyboard(open_page):
    page = open_page("#noise=7")
    entries = page.evaluate("history.length")
    for selector, key, expected in KEYS:
        page.press(selector, key)
        page.wait_for_function("(text) => location.hash.includes(text)", arg=expected)
        page.wait_for_function(AGREES)
    assert page.evaluate("history.length") == entries  # keys replace the current one
    page.press("#sheet", "Enter")
    page.wait_for_function("scrollY === 0")
    page.locator("#spoken", has_text="Pushed from step 20: The classifier sees").wait_for()
    page.press("#no", "Enter")
    page.locator("#spoken", has_text="the judge").wait_for()
    page.press("#start", "ArrowLeft")
    page.go_back()  # at once
    page.go_forward()
    page.wait_for_function("location.hash.includes('start=19&')")


@pytest.mark.parametrize("size", [(390, 844), (320, 640), (768, 1024), (1366, 640), (1280, 800)])
def test_nothing_is_small_or_covered_or_cut_off(open_page, size):
    page = open_page(width=size[0], height=size[1], forced_colors="active")
    for start in ("1", "9", "17", "never"):
        page.evaluate("(start) => (location.hash = `start=${start}`)", start)
        page.wait_for_timeout(300)
        assert not page.evaluate(CROWDED), start
    assert page.locator("#no").bounding_box()["y"] < size[1] - 40  # without scrolling
    page.hover("#digits :checked")
    style = "getComputedStyle(document.querySelector(':checked ~ span'))"
    assert page.evaluate(f"{style}.color !== {style}.backgroundColor")


def test_a_hundred_random_actions_end_in_the_state_of_the_address(open_page):
    page = open_page("#noise=3")
    page.evaluate("for (let k = 0; k < 50; k++) history.pushState(null, '', location)")
    for number in range(1, 101):
        page.evaluate(ACT, torch.randint(1300, (3,)).tolist())
        page.wait_for_timeout(number % 7 * 10)
        if number % 6 == 0:
            page.wait_for_timeout(500)  # until the address is written
            page.wait_for_function(AGREES)
