"""The web page in a real browser computes what PyTorch computes, and does what it says."""

import re

import pytest
import torch
from conftest import ABAR, ROOT
from torch.testing import assert_close

from diffusion import sampling_times
from docs import export
from inference import gradient, load_models, make_scheduler, reverse
from support.pictures import to_uint8

pytestmark = pytest.mark.xdist_group("page")  # one browser
DOCS = ROOT / "docs"
STEPS = export.SAMPLING["steps"]
# a worker without networks: noise n becomes digit n % 10, and each gray level tells the film
# and a push after step 15 fails
STUB = """onmessage = ({data: {noise, digit, step}}) => setTimeout(() => {
    const gray = (k) => Array(784).fill(step === null ? 20 + k : 50 + 9 * step + digit);
    for (let k = step ?? 0; k <= 20; k++)
        postMessage({k, seen: gray(k), guess: gray(k), push: gray(0)});
    postMessage({own: step === null || step >= 15 ? noise % 10 : digit});
}, 30)"""
FILM = """(job) => import('./sampler.js').then(({noiseImage}) => new Promise((resolve, reject) => {
    const worker = new Worker('worker.js', {type: 'module'}), frames = [];
    worker.onmessage = ({data}) => data.error ? reject(data.error) : data.k !== undefined ?
        frames.push(data) : resolve([[...noiseImage(job.noise)], ...['seen', 'guess'].map(
            (name) => frames.map((frame) => [...frame[name]]))]);
    worker.postMessage(job);
}))"""
# grays of the results, from their red; null where there is none
RESULTS = """() => [...document.querySelectorAll('#results canvas')].map((canvas) =>
    canvas.className ? null : Math.round((255 - canvas.getContext('2d').getImageData(9, 9, 1, 1)
        .data[0]) * 255 / 235))"""


@pytest.fixture
def open_page(browser, served):
    """A function that opens the page. At the end, nothing may be in the console."""
    problems = []

    def new(hash="", stub=STUB, missing="-", address=f"{served}/docs/index.html", **settings):
        page = browser.new_page(**{"reduced_motion": "reduce"} | settings)
        if stub:
            js = {"body": stub, "content_type": "text/javascript"}
            page.route("**/worker.js", lambda route: route.fulfill(**js))
        page.route(f"**/{missing}", lambda route: route.abort())
        if missing == "-":
            page.on("console", lambda it: it.type == "error" and problems.append(it.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"{address}{hash}")
        return page

    yield new
    for context in browser.contexts:
        context.close()
    assert not problems


def wait_for_results(page, digit, steps):
    """Wait until exactly these steps, counted from 1, have the right result."""
    page.wait_for_function(f"({RESULTS})().filter(Boolean).length === {len(steps)}")
    grays = page.evaluate(RESULTS)
    for step in steps:
        assert abs(grays[step - 1] - (50 + 9 * (step - 1) + digit)) <= 1, (step, grays)


def test_the_exported_files_are_those_of_the_included_networks(tmp_path):
    ddpm, classifier = load_models()
    export.export_weights(tmp_path, ddpm, classifier)
    export.export_constants(tmp_path, ddpm)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (DOCS / path.name).read_bytes(), path.name
    binary = pytest.importorskip("wasmtime").wat2wasm((DOCS / "conv.wat").read_text())
    assert bytes(binary) == (DOCS / "conv.wasm").read_bytes()


@pytest.mark.parametrize("noise, digit, step", [(0, 6, 2), (7, 3, 16), (0, 0, None)])
def test_a_film_is_that_of_python(open_page, noise, digit, step):
    job = {"noise": noise, "digit": digit, "step": step}
    x_t, *film = open_page(stub=None).evaluate(FILM, job)
    ddpm, classifier = load_models()
    for network in ddpm.unet, classifier:
        network.half().float()  # as on the page
    grad, times = gradient(classifier.log_p), sampling_times(ddpm.T, STEPS)
    predict = ddpm if step is None else export.pushed_once(ddpm, grad, step)
    x_t, y = torch.tensor(x_t).view(1, 1, 28, 28), torch.tensor([digit])

    def frames_of(predict):
        return list(reverse(predict, make_scheduler("ddim", ddpm.scheduler, times), x_t, y, None))

    frames = frames_of(predict)
    if step is not None:
        change = frames[step + 1][1] - frames_of(ddpm)[step + 1][1]
        assert_close(change.norm(), torch.tensor(float(export.NORM)), atol=1e-3, rtol=0)
    limits = [1 + 2 * (1 - ddpm.abar[t]).sqrt() for t in times]
    seen = [x_t / limit for (_, x_t, _), limit in zip(frames, limits)] + [frames[-1][2]]
    guesses = [ddpm.x_0(x_t, t) for t, x_t, _ in frames] + [frames[-1][2]]
    for on_page, python in zip(film, (seen, guesses)):
        expected = to_uint8(torch.cat(python)[step or 0 :]).flatten(1)
        assert_close(torch.tensor(on_page), expected, atol=2, rtol=0, check_dtype=False)


def test_what_is_measured(tmp_path, monkeypatch, open_page):
    def sample(ddpm, y, seeds, step=None, **settings):
        """A push works for the digits below 20 - step."""
        own = torch.tensor(seeds)
        y = own if y is None else torch.where((y := torch.tensor(y)) < 20 - step, y, own)
        return y.view(-1, 1, 1, 1).expand(-1, 1, 28, 28).float()

    monkeypatch.setattr(export, "sample", sample)
    monkeypatch.setattr(export, "pushed_once", lambda ddpm, grad, step: step)
    monkeypatch.setattr(export, "read_digits", lambda images: images[:, 0, 0, 0].long())
    export.measure(tmp_path, *load_models(), noises=2)
    page = open_page()
    page.route("**/pushes.csv", lambda route: route.fulfill(path=tmp_path / "pushes.csv"))
    page.reload()
    page.locator("#measured", has_text="18 pushes in each step").wait_for()
    assert re.findall(r"\d+%", page.inner_text("#measured")) == ["100%", "78%", "18%"]
    ink = 28 * 1.5 * ABAR[799].sqrt()  # of the digits 0 and 1, after step 4
    assert f"{ink:.1f} after step 4," in page.inner_text("#why")


def test_every_push_has_its_result_and_a_link_replays_the_one_that_is_shown(open_page):
    page = open_page("#noise=5&digit=8")
    wait_for_results(page, 8, range(1, 21))
    assert "in step 15" in page.inner_text("#verdict")
    for list, step in ("film", 15), ("results", 17):
        page.locator(f"#{list} button").nth(step - 1).click()
        page.locator("#says", has_text=f"Step {step}:").wait_for()
        assert page.inner_text(".fork button") == str(step)
    assert "still sees a 5" in page.inner_text("#says")
    again = open_page(page.url[page.url.index("#") :])
    again.locator("#says", has_text="Step 17:").wait_for()
    click = "document.querySelector(`[value='3']`).click(), "
    assert page.evaluate(f"{click}document.querySelector('#verdict').innerText") == ""  # at once
    wait_for_results(page, 3, range(1, 21))
    page.check("[value='7']", force=True)
    page.check("[value='1']", force=True)  # while those of the 7 are computed
    wait_for_results(page, 1, range(1, 21))
    page.click("#new")
    page.wait_for_url(re.compile("push=4$"))
    wait_for_results(page, 5 if re.search(r"noise=\d*1&", page.url) else 1, range(1, 21))


def test_the_visitor_has_the_last_word(open_page):
    page = open_page("#noise=5&digit=8&push=17")
    wait_for_results(page, 8, range(1, 21))
    for step, last in (17, 17), (17, 15), (15, 14), (3, 14):  # the reader sees an 8 before step 16
        page.locator("#film button").nth(step - 1).click()
        page.locator("#says", has_text=f"Step {step}:").wait_for()
        page.click("#mark")
        page.locator(
            "#verdict", has_text=f"You say: the last push that works is in step {last}."
        ).wait_for()


def test_a_digit_that_the_noise_becomes_anyway_is_replaced_unless_it_was_chosen(open_page):
    page = open_page(f"#noise={export.DIGIT}")
    page.locator(".target", has_text="a 0").wait_for()
    page.locator("#says", has_text="Step 4").wait_for()
    page.check(f"[value='{export.DIGIT}']", force=True)
    page.locator("#says", has_text=f"a {export.DIGIT} without a push").wait_for()


def test_the_keyboard_is_enough(open_page):
    page = open_page("#noise=5&digit=8&push=4")
    wait_for_results(page, 8, range(1, 21))
    page.focus("#film li:nth-child(4) button")
    for key in "Tab", "Enter":
        page.keyboard.press(key)
    page.locator("#says", has_text="Step 5:").wait_for()
    page.press("#mark", "Enter")
    page.locator("#verdict", has_text="You say: the last push that works is in step 15.").wait_for()
    page.press(":checked", "ArrowLeft")
    wait_for_results(page, 7, range(1, 21))


@pytest.mark.parametrize("name", ["weights.bin", "worker.js"])
def test_a_missing_file_is_named(open_page, name):
    page = open_page(stub=None, missing=name)
    page.locator("#says", has_text=f"{name} cannot be loaded").wait_for(timeout=100_000)


def test_without_a_server_or_without_scripts_the_page_says_so(open_page):
    page = open_page(address=(DOCS / "index.html").as_uri(), missing="page.js")
    assert "python3 -m http.server" in page.inner_text("#says")
    page = open_page(java_script_enabled=False)
    assert "JavaScript" in page.inner_text("noscript p")


def test_nothing_is_wider_than_the_window(open_page):
    page = open_page(forced_colors="active", reduced_motion="no-preference")
    for state in "#stage.alone", ".fork":
        page.wait_for_selector(state)
        for width, height in (390, 844), (320, 640), (1366, 640), (1280, 800):
            page.set_viewport_size({"width": width, "height": height})
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width


def test_every_link_leads_somewhere(open_page):
    page, published = open_page(), "https://somebody.github.io/name/"
    addresses = "(all) => all.map((it) => it.href || it.src)"
    links = page.eval_on_selector_all("[href], [src]", addresses)
    local = [link for link in links if link.startswith("http://127")]
    assert len(local) > 4 and all(page.request.get(link).ok for link in local)

    def file_of(route):
        route.fulfill(path=DOCS / (route.request.url.removeprefix(published) or "index.html"))

    page.route(f"{published}**", file_of)
    page.goto(published)  # where files lead to the repository
    page.wait_for_selector("[href='https://github.com/somebody/name/tree/main/results/README.md']")
    assert not page.query_selector("a[href^='../']")
