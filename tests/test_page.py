"""The web page in a real browser computes what PyTorch computes, and does what it says."""

import json
import re

import pytest
import torch
from conftest import ROOT
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
    const guess = new Uint8Array(784), hot = (y) => Array(10).fill(0).with(y % 10, 1);
    const send = (key, k, y, push) => postMessage({key, k, guess, p: hot(y), push});
    for (let k = 0; k < 21; k++) send(`${noise}`, k, noise);
    for (let k = start + 1; k < 21; k++) send(key, k, noise + 3 * digit + start, guess);
    postMessage({key, isDone: true, q: hot(start < 20 ? noise + 3 * digit + start + 1 : noise)});
}, 20 + 60 * Math.random());"""
FILM = """(place) => import('./films.js').then(({findFilms, findResult, revealJudge}) => {
    const {guesses, ps} = findFilms(place).pushed, q = (revealJudge(), findResult(place)?.q);
    return q && ps.every(Boolean) && [guesses.slice(1).map((grays) => [...grays]), ps, q];
})"""
COVERED = """() => {
    const boxes = (names) => [...document.querySelectorAll(names)]
        .map((node) => node.getBoundingClientRect());
    const [words, pictures] = [boxes('#sentence, .answer'), boxes('.tag, #push, .result, #when')];
    return words.some((a) => pictures.some((b) =>
        Math.min(a.right, b.right) - 1 > Math.max(a.left, b.left)
        && Math.min(a.bottom, b.bottom) - 1 > Math.max(a.top, b.top)))
        || document.documentElement.scrollWidth > innerWidth;
}"""
SENTENCE = """(seen) => import('./words.js').then(({sentence}) => {
    const [p, q] = seen.map((y) => Array(10).fill(0).with(y, 1));
    return sentence({digit: 5, start: 9}, p, q, p).replace(/<.*?>/g, '');
})"""
MEASURED = "(count) => import('./words.js').then(({measured}) => measured(count))"
# what the page says if the two gave up at these starts, and the visitor answered so
ENDING = """([classifier, judge, answers]) => import('./words.js').then(({closing}) => {
    const see = (isSeen) => Array(10).fill(0).with(isSeen ? 5 : 3, 1);
    const one = (start) => ({start, p: see(start < classifier), you: [false, true][answers[start]],
        q: see(start < judge && start !== judge - 3)});
    return closing({digit: 5}, [...Array(21).keys()].map(one));
})"""
# what a column of the chart shows: lines of classifier and judge, shading; marks of the answers
CHART = """([p, q, unrolled]) => import('./chart.js').then(({drawChart}) => {
    const of = (x) => Array(10).fill(0.9).with(5, x), known = {p: of(p), q: of(q)};
    const all = [...Array(21).keys()].map((start) =>
        ({start, ...[4, 5, 12, 19, 20].includes(start) && {...known, you: start > 4}}));
    drawChart({digit: 5, start: 20}, all, {size: 40, stride: 1, gap: 70}, unrolled);
    const pixels = document.getElementById('chart').getContext('2d');
    const colors = {p: [191, 74, 0], q: [28, 27, 25], s: [248, 217, 191], y: [106, 63, 181]};
    const name = ([r, g, b]) => Object.keys(colors).find((name) =>
        colors[name].every((c, k) => Math.abs(c - [r, g, b][k]) < 20)) ?? '';
    const column = (x, height) => [...Array(height).keys()].map((y) =>
        name(pixels.getImageData(x, y, 1, 1).data)).join('').replace(/(.)\\1+/g, '$1');
    return [...Array(20).keys()].map((k) => column(95 + 40 * k, 92) + column(75 + 40 * k, 22));
})"""
TINTED = """() => document.getElementById('sheet').getContext('2d').getImageData(0, 0, 900, 500)
    .data.some((v, i, d) => !(i % 4) && Math.hypot(v - 217, d[i + 1] - 212, d[i + 2] - 202) < 3)"""


@pytest.fixture
def open_page(browser, served):
    """A function that opens the page. At the end, nothing may be in the console."""
    problems = []

    def new(hash="", stub=STUB, missing="-", slow="-", **settings):
        page = browser.new_page(**{"reduced_motion": "reduce"} | settings)
        if stub:
            js = {"body": stub, "content_type": "text/javascript"}
            page.route("**/worker.js", lambda route: route.fulfill(**js))
        page.route(f"**/{missing}", lambda route: route.abort())
        page.route(f"**/{slow}", lambda route: None)  # never answered
        if missing == "-":
            page.on("console", lambda it: it.type == "error" and problems.append(it.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"{served}/docs/index.html{hash}")
        return page

    yield new
    for context in browser.contexts:
        context.close()
    assert not problems


def wait_for_sentence(page, words, **settings):
    page.locator("#sentence:not(.old)", has_text=words).wait_for(**settings)


def test_the_exported_files_are_those_of_the_included_networks(tmp_path):
    (ddpm, classifier), judge = load_models(), load_judge()
    export.export_weights(tmp_path, ddpm, classifier)
    export.export_judge(tmp_path, judge)
    export.export_constants(tmp_path, ddpm)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (DOCS / path.name).read_bytes(), path.name
    hashes = json.loads((DOCS / "count.json").read_text())["sha256"]
    assert hashes == {name: sha256(MODELS / f"{name}.pth") for name in hashes} and len(hashes) == 3
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
    place = {"noise": noise, "digit": digit, "start": start, "strength": s}
    page = open_page(f"#noise={noise}&digit={digit}&start={start + 1}&strength={s}", stub=None)
    while not (film := page.evaluate(FILM, place)):  # the first film is in first.*
        page.wait_for_timeout(200)
    networks = [*load_models(), load_judge()]
    for network in networks[0].unet, networks[1]:
        network.half().float()  # as on the page
    guesses, p, _, q = export.films(*networks, noise, torch.tensor([(digit, start)]), s)
    expected = to_uint8(guesses[0, 1:]).flatten(1)  # before, the page shows the noise
    for part, of_python, atol in zip(film, (expected, p[0], q[0]), (2, 0.01, 0.01)):
        assert_close(torch.tensor(part), of_python, atol=atol, rtol=0, check_dtype=False)


def test_the_first_screen_needs_no_networks(open_page):
    page = open_page(stub=None, missing="weights.bin")
    page.locator("#sentence", has_text=f"The classifier sees a {export.DIGIT}").wait_for()
    assert page.is_visible("#push") and not page.inner_text("#progress")  # all results are there
    page.goto((DOCS / "index.html").as_uri())
    assert "python3 -m http.server" in page.inner_text("#status")
    page = open_page(java_script_enabled=False)
    assert page.locator("noscript p").bounding_box()["y"] < 200  # it says that it needs JavaScript


@pytest.mark.parametrize("name", ["weights.bin", "judge.bin", "worker.js"])
def test_missing_files_are_named(open_page, name):
    page = open_page("#noise=7&start=20", stub=None, missing=name)
    page.locator("#status", has_text=f"{name} cannot be loaded").wait_for(timeout=100_000)


def test_the_judge_delays_no_film(open_page):
    page = open_page("#noise=7&start=20", stub=None, slow="judge.bin")
    for start in ("20", "19"):
        page.locator("#start-text", has_text=start).wait_for()
        wait_for_sentence(page, "sees", timeout=100_000)
        page.press("#start", "ArrowLeft")


@pytest.mark.parametrize("button", ["#no", "#judge"])
def test_the_judge_is_hidden_until_a_visitor_wants_it(open_page, button):
    page = open_page("#noise=5&digit=8&start=11", missing="first.*")
    page.wait_for_selector("#chart[aria-label^='Of 21']")
    page.locator("#sheet").scroll_into_view_if_needed()
    page.locator("#conclusion", has_text="the classifier").wait_for()
    page.click("#yes")
    page.wait_for_selector("#yes[aria-pressed=true]")
    places = ":is(#sentence, #conclusion, #closing, #tinted, #measured, #key):visible"
    words = page.locator(places, has_text="judge")
    drawn = page.locator("#chart[aria-label*='the judge'], #digits [style*='--q: 1']")
    assert (words.count(), drawn.count(), page.evaluate(TINTED)) == (0, 0, False)
    page.click(button)
    page.locator("#conclusion", has_text="the judge").wait_for()
    assert (words.count(), drawn.count(), page.evaluate(TINTED)) == (5, 2, True)  # not #closing
    assert page.is_disabled("#judge")


def test_an_answer_belongs_to_the_picture_that_was_seen(open_page):
    held = STUB.replace("setTimeout(", "(start === 9 ? (f) => (self.release = f) : setTimeout)(")
    page = open_page("#noise=5&digit=8&start=10&strength=1", stub=held)
    page.click("#no", force=True)  # nothing is there yet
    page.press("#start", "ArrowRight")
    wait_for_sentence(page, "sees a 9")
    page.click("#yes")
    page.wait_for_selector("#yes[aria-pressed=true]")
    page.press("#start", "ArrowLeft")
    page.wait_for_selector("#yes[aria-pressed=false]")
    page.click("#no", force=True)  # while the picture is computed
    for worker in page.workers:
        worker.evaluate("self.release?.()")
    wait_for_sentence(page, "sees an 8")
    assert page.is_enabled("#judge") and not page.query_selector("#no[aria-pressed=true]")
    page.press("#start", "ArrowRight")
    page.wait_for_selector("#yes[aria-pressed=true]")
    page.press("#strengths :checked", "ArrowRight")  # another film
    page.wait_for_selector("#yes[aria-pressed=false]")
    page.press("#strengths :checked", "ArrowLeft")
    page.wait_for_selector("#yes[aria-pressed=true]")
    page.press("#no", "Space")  # replaces it
    page.wait_for_selector("#yes[aria-pressed=false] ~ #no[aria-pressed=true]")
    page.press("#no", "Space")  # takes it back
    page.wait_for_selector("#no[aria-pressed=false]")


def test_what_the_page_says_is_true(open_page):
    page, counted = open_page(), [[3, 1, 0], *[[2, 1, 1]] * 8, [0, 1, 3]]
    said = page.evaluate(MEASURED, {"noises": 5, "digits": counted})
    rates = ["48%", "40", "0%", "a 9", "75%", "a 0", "25%", "28%"]
    assert re.findall(r"\ba \d|\d+%?", said) == ["5", *rates]
    for seen, words in (([3, 3], "Both see a 3, not"), ([3, 5], "sees a 3 (99%), the judge a 5")):
        assert words in page.evaluate(SENTENCE, seen)
    for *case, numbers, keyword in (  # classifier and judge gave up, answers, what the page says
        (20, 17, {15: 1, 16: 0}, ["17", "18", "not even", "20"], "Never let"),
        (20, 10, {3: 0, 15: 1, 18: 0}, ["17", "19", "11", "not even", "20"], "Never let"),
        (19, 19, {9: 1, 11: 0}, ["11", "12", "20", "20"], "as well"),
        (17, 19, {9: 1, 10: 0}, ["11", "20", "18"], "even longer"),
        (17, 12, {17: 1, 18: 0}, ["19", "13", "18"], "This time"),
        (17, 12, {14: 1, 18: 0}, ["16"], "answer at step"),
        (20, 17, {15: 1}, [], "later"),
    ):
        said = page.evaluate(ENDING, case)
        assert re.findall(r"\d+|not even", said) == numbers and keyword in said, (case, said)


def test_the_chart_joins_neighbors_and_moves_the_start(open_page):
    page = open_page("#noise=5", viewport={"width": 1000, "height": 800})
    for *values, line in ((0.6, 0.4, 1, "psq"), (0.4, 0.6, 1, "qp"), (0.6, 0.4, 0, "p")):
        expected = dict.fromkeys(range(20), "") | {4: line + "y", 5: "y", 12: "y", 19: line + "y"}
        shown = page.evaluate(CHART, values)
        del shown[3], expected[3]  # the word "you"
        assert shown == list(expected.values())
    box = page.locator("#start").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] - 30)
    page.wait_for_function("location.hash.includes('start=11&')")


def test_every_control_works_with_the_keyboard(open_page):
    page = open_page("#noise=7&strength=0.1")
    entries = page.evaluate("history.length")
    for selector, key, address, words in (  # the element, a key, and what the page then says
        ("#digits :checked", "ArrowRight", "noise=7&digit=7&start=18&strength=0.1", "sees a 5"),
        ("#start", "ArrowLeft", "start=17", "sees a 4"),
        ("#start", "End", "start=never", "becomes a 7"),
        ("#strengths :checked", "ArrowRight", "strength=1", "becomes a 7"),
        ("#sheet", "ArrowLeft", "digit=7&start=20", "sees a 7"),
    ):
        page.press(selector, key)
        page.wait_for_function("(text) => location.hash.includes(text)", arg=address)
        wait_for_sentence(page, words)
        assert page.is_visible("#push") == words.startswith("sees")
    assert page.evaluate("history.length") == entries  # keys replace the current one
    page.press("#sheet", "Enter")
    page.wait_for_function("scrollY === 0")
    page.locator("#spoken", has_text="The classifier sees").wait_for()
    page.press("#no", "Enter")
    page.locator("#spoken", has_text="the judge").wait_for()
    page.press("#start", "ArrowLeft")
    page.go_back()  # at once
    page.go_forward()
    page.wait_for_function("location.hash.includes('start=19&')")


@pytest.mark.parametrize("size", [(390, 844), (320, 640), (1366, 640), (1280, 800)])
def test_the_question_is_readable_at_every_size(open_page, size):
    viewport = dict(zip(("width", "height"), size))
    page = open_page(viewport=viewport, forced_colors="active")
    for start in ("1", "9", "17", "never"):
        page.evaluate("(start) => (location.hash = `start=${start}`)", start)
        page.wait_for_timeout(300)
        assert not page.evaluate(COVERED), start
    assert page.locator("#no").bounding_box()["y"] < size[1] - 40  # without scrolling
