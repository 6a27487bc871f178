"""The web page in a real browser computes what PyTorch computes, and does what it says."""

import io
import re
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from torch.testing import assert_close

from docs import export
from examples import when
from inference import load_models
from support.pictures import to_uint8

pytestmark = pytest.mark.xdist_group("page")  # one browser, which computes one map
THRESHOLD = float(re.search("THRESHOLD = (.+);", (ROOT / "docs/constants.js").read_text())[1])


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    paths = map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))
    path = next(filter(None, paths), None) or pytest.skip("no Chromium: apt install chromium")
    with playwright.sync_playwright() as running:
        yield running.chromium.launch(executable_path=path, args=["--no-sandbox"])


@pytest.fixture(scope="module")
def address():
    handler = partial(SimpleHTTPRequestHandler, directory=ROOT)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/docs/"
    server.shutdown()


@pytest.fixture(scope="module")
def open_page(browser, address):
    """A function that opens the page. At the end, nothing may be in the console."""
    problems = []

    def new(hash="", worker=None, **options):
        page = browser.new_page(base_url=address, **options)
        if worker:
            page.route(
                "**/worker.js", lambda r: r.fulfill(body=worker, content_type="text/javascript")
            )
        page.set_default_timeout(120_000)
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"index.html{hash}")
        page.wait_for_function("() => !document.getElementById('status').textContent")
        return page

    yield new
    assert not problems


@pytest.fixture(scope="module")
def page(open_page):
    """The page with both networks, as in its worker."""
    page = open_page(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    page.evaluate("""async () => {
        window.networks = await (await import('./networks.js')).loadNetworks();
    }""")
    return page


# --- the networks ---


def test_the_exported_weights_are_those_of_the_shipped_networks(tmp_path):
    export.export_weights(tmp_path, *load_models())
    for name in ("weights.bin", "weights.json"):
        assert (tmp_path / name).read_bytes() == (ROOT / "docs" / name).read_bytes(), name


def test_the_constants_are_those_of_python(tmp_path):
    export.export_constants(tmp_path, load_models()[0], THRESHOLD)
    texts = [(folder / "constants.js").read_text() for folder in (tmp_path, ROOT / "docs")]
    found, expected = (re.findall(r"-?\d[\d.e-]*", text) for text in texts)
    assert [*map(float, found)] == pytest.approx([*map(float, expected)])


def test_the_kernel_is_compiled_from_its_source():
    wasmtime = pytest.importorskip("wasmtime")
    binary = wasmtime.wat2wasm((ROOT / "docs" / "conv.wat").read_text())
    assert bytes(binary) == (ROOT / "docs" / "conv.wasm").read_bytes()


def rounded_models():
    """The shipped networks with weights rounded to float16, as on the page."""
    ddpm, classifier = load_models()
    for network in (ddpm.unet, classifier):
        network.half().float()
    return ddpm, classifier


@pytest.mark.parametrize("t", [999, 499, 0])
def test_both_networks_and_the_gradient_equal_pytorch(page, t):
    ddpm, classifier = rounded_models()
    x_t, times = torch.randn(1, 1, 28, 28), torch.tensor([t])
    eps, p, grad = page.evaluate(
        """([x_t, t]) => {
            const x = Float32Array.from(x_t), {p, gradient} = networks.classify(x, t);
            return [[...networks.unet(x, t)], p, [...gradient(3)]];
        }""",
        [x_t.flatten().tolist(), t],
    )
    x_t.requires_grad_()
    log_p = classifier.log_p(x_t, times, torch.tensor([3]))
    found = torch.tensor(eps), torch.tensor([p[3]]).log(), torch.tensor(grad)
    expected = ddpm.unet(x_t, times).sample, log_p, torch.autograd.grad(log_p, x_t)[0]
    for ours, theirs in zip(found, expected):
        atol = 1e-3 * theirs.abs().max().item()
        assert_close(ours, theirs.detach().flatten(), atol=atol, rtol=0)


def until(page, script, arg=None):
    """Call an asynchronous function in the page until it returns something (within a minute)."""
    for _ in range(600):
        if found := page.evaluate(script, arg):
            return found
        page.wait_for_timeout(100)
    raise TimeoutError(script)


PATHS = """async ([start, digit, size, windows]) => {
    const map = (await import('./paths.js')).findMap({start, digit, size});
    const paths = windows.map((window) => map?.get(...window));
    if (!paths.every((path) => path?.kind)) return null;
    return paths.map((path) => ({...path, guesses: path.guesses.map((grays) => [...grays])}));
}"""


@pytest.mark.parametrize("noise, digit, size", [(5, 5, 0), (3, 7, 0), (5, 3, 3.5), (6, 5, 3.5)])
def test_the_paths_are_those_of_python(open_page, noise, digit, size):
    """Pictures, heights, and verdicts: of the shipped map, and of the workers."""
    windows = [(0, 0), (9, 10), (9, 12), (9, 20)]
    page = open_page(f"#start={noise}&digit={digit}&size={size}&first=10&last=10")
    found = until(page, PATHS, [noise, digit, size, windows[1:]])
    page.close()
    ddpm, classifier = rounded_models()
    y = torch.tensor([(digit, *window) for window in windows])
    scale = when.equal_scale(ddpm, classifier, noise, digit, size) if size else None
    guesses, log_p = when.pushed_paths(ddpm, classifier, [noise] * len(y), y, scale)
    surprises, alone = when.surprise(ddpm, guesses[:, -1]), log_p[0, -1].argmax().item()

    def compare(name, expected, atol):
        values = torch.tensor([path[name] for path in found])
        assert_close(values, expected[1:], atol=atol, rtol=0, check_dtype=False)

    compare("guesses", to_uint8(guesses).flatten(2), 20)  # the shipped map has 16 gray levels
    compare("heights", when.heights(log_p, digit), 0.03)
    compare("p", log_p[:, -1].exp(), 0.02)
    compare("surprise", surprises, 1e-3)
    kinds = when.kinds(log_p[:, -1], surprises, THRESHOLD, digit, alone)
    assert [path["kind"] for path in found] == kinds[1:]


# --- the page ---


def push(page):
    """The first and the last pushed step."""
    return tuple(int(page.input_value(f"#{end}")) for end in ("begin", "end"))


def ink(page, selector):
    """The fraction of dark pixels in what the screen shows of an element."""
    picture = Image.open(io.BytesIO(page.locator(selector).screenshot())).convert("RGB")
    return (np.asarray(picture).max(axis=2) < 100).mean()


def test_the_first_picture_needs_neither_networks_nor_much_data(browser, address):
    page, sizes = browser.new_page(base_url=address), []
    page.on("response", lambda response: sizes.append(len(response.body())))
    page.goto("index.html", wait_until="networkidle")
    page.wait_for_selector("main:not(.waiting) #result")
    assert ink(page, "#fork") > 0.005 and ink(page, "#result") > 0.05 and sum(sizes) < 300_000
    page.close()


VISIBLE = "h1, #lead, #digits span, #noise, #fork, #track, #caption, #headline, #tasks li, #cells"
COVERED = """(selector) => [...document.querySelectorAll(selector)].filter((node) => {
    if (!node.checkVisibility()) return false;
    node.scrollIntoView({block: 'center'});
    const {left, top, width, height} = node.getBoundingClientRect();
    const found = document.elementFromPoint(left + width / 2, top + height / 2);
    return !node.parentElement.contains(found);
}).map((node) => node.outerHTML)"""


@pytest.mark.parametrize("width, height", [(1280, 720), (901, 700), (390, 844), (320, 568)])
def test_each_screen_shows_the_handles_and_nothing_is_covered_or_cut_off(open_page, width, height):
    page = open_page(viewport={"width": width, "height": height}, reduced_motion="reduce")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    box = page.locator("#push").bounding_box()
    assert box["y"] + box["height"] <= height  # without scrolling
    assert page.evaluate(COVERED, VISIBLE) == []
    page.close()


def test_a_push_is_chosen_with_the_keyboard_or_a_pointer(page):
    for end, step in (("begin", 1), ("end", 10)):
        page.locator(f"#{end}").fill(str(step))
    page.focus("#end")
    for key, last in {"ArrowRight": 11, "PageUp": 13, "PageDown": 11, "End": 20, "Home": 1}.items():
        page.keyboard.press(key)
        assert push(page) == (1, last)
    page.focus("#begin")
    page.keyboard.press("End")  # it stops at the other handle
    assert push(page) == (1, 1)
    track, cells = (page.locator(name).bounding_box() for name in ("#track", "#cells"))
    y, step = track["y"] + track["height"] / 2, track["width"] / 20
    for start, stop, expected in ((1.2, 4.1, (1, 4)), (0.7, 7.7, (8, 11))):  # a handle, the band
        page.mouse.move(track["x"] + start * step, y)
        page.mouse.down()
        page.mouse.move(track["x"] + stop * step, y, steps=5)
        page.mouse.up()
        assert push(page) == expected
    page.wait_for_url("**&first=8&last=11")
    assert page.get_attribute("#begin", "aria-valuetext") == "8, of 20"
    assert page.inner_text("#headline") in page.text_content("#announcement")
    page.locator("#cells").click(position={"x": cells["width"] / 8, "y": cells["width"] / 4.5})
    assert push(page) == (3, 16)


STUB = """const chance = (d) => Array.from({length: 10}, (_, k) => k === d ? 0.991 : 0.001);
onmessage = ({data: {id, start, states, digit, windows = []}}) => {
    const begin = typeof start === 'object' ? 12 : 0, alone = begin ? 5 : (start + 2) % 10;
    const guess = new Uint8ClampedArray(784), guesses = Array(21).fill(guess);
    for (const [first, end] of windows) {
        const chances = guesses.map(() => chance(first <= 10 && end > 10 ? digit : alone));
        for (let k = begin; !states && k <= 20; k++) postMessage({id, k, guess, p: chance(alone)});
        postMessage(states ? {id, first, end, guesses, chances} : {id, states: {}});
        if (states) postMessage({id, first, end, surprise: first > 14 ? 1 : 0});
    }
};"""  # a worker that needs no networks
AGREES = """async () => {
    const {findMap} = await import('./paths.js'), {drawing} = await import('./drawing.js');
    const at = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
    const [$, isDrawn] = [document.querySelector.bind(document), at.start === 'drawing'];
    const map = findMap({start: isDrawn ? drawing : +at.start, digit: +at.digit, size: +at.size});
    const shows = [$('#digits :checked'), $('#begin'), $('#end')].map(({value}) => value);
    const isIdle = map?.isPointless || map?.origin.isEmpty;
    return map && `${shows}` === `${[at.digit, at.first, at.last]}`
        && $('#equal').checked === at.size > 0 && $('#from-drawing').checked === isDrawn
        && at.first > map.origin.earliest && (isIdle || map.isComplete())
        && $('main').className === (isIdle ? 'waiting' : map.get(at.first - 1, +at.last).kind)
        && (map.tried.size > 0 || !$('#tasks .done'));
}"""
SEQUENCE = [  # what is clicked or typed, and a part of the address afterward
    ("#end=10", "start=5&digit=5&size=0&first=1&last=10"),
    ("#equal", "size=3.5"),
    ("#digits label:nth-child(4)", "digit=3&size=3.5"),
    ("#equal", "digit=3&size=0"),
    ("#digits label:nth-child(6)", "start=5&digit=5"),
    ("#from-drawing", "start=drawing&digit=5"),
    ("#drawing", "start=drawing&digit=5&size=0&first=13&last=20"),  # the digit that is chosen
    ("#digits label:nth-child(4)", "start=drawing&digit=3"),
    ("#begin=16", "first=16&last=20"),
    ("#from-noise", "start=5&digit=5&size=0&first=1&last=10"),
    ("#noise", "start=6&digit=5"),
    ("back", "start=5&digit=5"),
    ("#from-drawing", "start=drawing&digit=5"),
    ("#noise", "start=6&digit=5&size=0&first=1&last=10"),
]


def test_a_sequence_of_actions_leaves_everything_in_agreement(open_page):
    """After each action: the address, the controls, the map, the tasks, and the verdict."""
    page = open_page(worker=STUB, reduced_motion="reduce")
    for number, (action, expected) in enumerate(SEQUENCE):
        selector, _, value = action.partition("=")
        if action == "back":
            page.go_back()
        else:
            page.fill(selector, value) if value else page.click(selector, force=True)
        print(f"action {number}: {action}")  # shown if it fails
        until(page, AGREES)
        assert expected in page.evaluate("location.hash")
    page.close()


def test_after_a_failed_download_the_page_goes_on(browser, address):
    page = browser.new_page(base_url=address)
    for missing in ("weights.bin", "conv.wasm", "worker.js"):
        page.goto("index.html")
        page.route(f"**/{missing}", lambda route: route.abort())
        page.click("#noise")
        page.locator("#status", has_text="cannot").wait_for()
        page.unroute(f"**/{missing}")
    page.click("#noise")
    page.locator("#status", has_text="cannot").wait_for(state="detached")
    page.goto((ROOT / "docs" / "index.html").as_uri())
    assert "python3 -m http.server" in page.inner_text("#status")
    page.close()


def test_links_and_the_social_picture(page):
    links = page.evaluate("[...document.querySelectorAll('a[data-path]')].map((a) => a.href)")
    assert links and all(page.request.get(link).ok for link in links)
    assert Image.open(ROOT / "docs" / "preview.png").size == (1200, 630)
