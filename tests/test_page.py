"""The web page in a real browser computes what PyTorch computes, and does what it says."""

import io
import json
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
SIZES = [(1280, 720), (901, 700), (390, 844), (320, 568)]


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    paths = map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))
    path = next(filter(None, paths), None) or pytest.skip("no Chromium: apt install chromium")
    with playwright.sync_playwright() as running:
        yield running.chromium.launch(executable_path=path, args=["--no-sandbox"])


@pytest.fixture(scope="module")
def address():
    handler = partial(QuietHandler, directory=ROOT)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/docs/"
    server.shutdown()


@pytest.fixture(scope="module")
def open_page(browser, address):
    """A function that opens the page. At the end, nothing may be in the console."""
    problems = []

    def new(hash="", **options):
        page = browser.new_page(base_url=address, **options)
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


WORKER = """([job, windows]) => new Promise((resolve) => {
    const worker = new Worker('worker.js', {type: 'module'}), found = {};
    worker.onmessage = ({data: {a, b, guesses, ...path}}) => {
        const pictures = guesses && {guesses: guesses.map((grays) => [...grays])};
        Object.assign(found[[a, b]] ??= {}, path, pictures);
        const all = windows.map((window) => found[window]);
        if (all.every((path) => path?.surprise)) resolve(all);
    };
    worker.postMessage({id: 1, ...job, drawing: null, windows});
})"""


def test_the_paths_are_those_of_python(page):
    """Those of the worker, with float16 weights: pictures, heights, and both verdicts."""
    ddpm, classifier = rounded_models()
    windows = [(0, 0), (0, 20), (0, 9), (4, 13), (12, 20)]
    job = {"noise": 3, "digit": 7, "strength": 0, "push": "growing"}
    found = page.evaluate(WORKER, [job, windows])
    y = torch.tensor([(7, a, b) for a, b in windows])
    guesses, log_p = when.pushed_paths(ddpm, classifier, [3] * len(y), y)

    def compare(name, expected, atol):
        values = torch.tensor([path[name] for path in found])
        assert_close(values, expected, atol=atol, rtol=0, check_dtype=False)

    compare("guesses", to_uint8(guesses).flatten(2), 3)
    compare("heights", when.heights(log_p, 7), 0.02)
    compare("p", log_p[:, -1].exp(), 0.01)
    compare("surprise", when.surprise(ddpm, guesses[:, -1]), 1e-3)


def test_the_page_ships_the_map_that_it_computes(page):
    windows = [(0, 0), (0, 20), (0, 10), (10, 11), (15, 18)]
    settings, shipped = page.evaluate(
        """async (windows) => {
            const map = await (await import('./paths.js')).loadShipped();
            const paths = windows.map(([a, b]) => map.get(a, b));
            const plain = (path) => ({...path, guesses: path.guesses.map((of) => [...of])});
            return [map.settings, paths.map(plain)];
        }""",
        windows,
    )
    for path, expected in zip(page.evaluate(WORKER, [settings, windows]), shipped):
        for name, atol in {"guesses": 20, "heights": 0.02, "p": 0.01, "surprise": 1e-3}.items():
            found = torch.tensor(path[name]).float()
            assert_close(found, torch.tensor(expected[name]).float(), atol=atol, rtol=0)


def test_the_verdicts_are_those_of_python(page):
    """On all results of the shipped map: which digit it is, or that it is broken."""
    content = json.loads((ROOT / "docs/map.json").read_text())
    p, surprises = (torch.tensor(values) for values in zip(*content["results"]))
    alone = p[0].argmax().item()
    expected = when.kinds(p.log(), surprises, content["threshold"], when.DIGIT, alone)
    found = page.evaluate("""async () => {
        const map = await (await import('./paths.js')).loadShipped();
        return map.pushes().map(({kind}) => kind);
    }""")
    assert found == expected[1:] and {"target", "alone", "broken"} <= set(found)


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
    page.wait_for_selector("#result:not(.moving)")
    assert ink(page, "#fork") > 0.005 and ink(page, "#result") > 0.05
    assert page.inner_text("#headline") != "…" and sum(sizes) < 300_000
    page.close()


VISIBLE = "h1, #lead, #digits span, #noise, #fork, #track, #caption, #headline, #tasks li, #cells"
COVERED = """(selector) => [...document.querySelectorAll(selector)].filter((node) => {
    if (!node.checkVisibility()) return false;
    node.scrollIntoView({block: 'center'});
    const {left, top, width, height} = node.getBoundingClientRect();
    const found = document.elementFromPoint(left + width / 2, top + height / 2);
    return !node.parentElement.contains(found);
}).map((node) => node.outerHTML)"""


@pytest.mark.parametrize("width, height", SIZES)
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
    track = page.locator("#track").bounding_box()

    def drag(start, stop):
        y = track["y"] + track["height"] / 2
        at = [track["x"] + step * track["width"] / 20 for step in (start, stop)]
        page.mouse.move(at[0], y)
        page.mouse.down()
        page.mouse.move(at[1], y, steps=5)
        page.mouse.up()

    drag(1.2, 4.1)  # the outer half of the right handle
    assert push(page) == (1, 4)
    drag(0.7, 7.7)  # the band, by its first cell
    assert push(page) == (8, 11) and page.url.endswith("from=8&until=11")
    assert page.get_attribute("#begin", "aria-valuetext") == "8, of 20"
    assert page.inner_text("#headline") in page.text_content("#announcement")
    cells = page.locator("#cells").bounding_box()
    at = {"x": 2.5 * cells["width"] / 20, "y": 4.5 * cells["width"] / 20}
    page.locator("#cells").click(position=at)
    assert push(page) == (3, 16)


def test_another_map_is_computed_and_the_browser_goes_back(open_page):
    """The digit that appears unpushed cannot be chosen. A drawing takes the place of the noise."""
    _, log_p = when.pushed_paths(*load_models(), [7], torch.tensor([(0, 0, 0)]))
    digit = log_p[0, -1].argmax().item()
    page = open_page(f"#noise=7&digit={digit}&from=3&until=14")
    page.wait_for_function(f"() => location.hash.includes('digit={(digit + 1) % 10}')")
    page.wait_for_function("() => document.getElementById('headline').textContent !== '…'")
    assert page.is_disabled(f"#digits input[value='{digit}']") and push(page) == (3, 14)
    page.click("#noise")
    assert "noise=8" in page.url
    page.go_back()
    assert "noise=7" in page.url and page.inner_text("#headline") != "…"  # known already
    pad = page.locator("#pad")
    pad.scroll_into_view_if_needed()
    pad.hover(position={"x": 106, "y": 40})
    page.mouse.down()
    pad.hover(position={"x": 106, "y": 170})
    page.mouse.up()
    page.wait_for_function("() => document.querySelector('.unpushed').textContent === 'a 1'")
    page.close()


def test_what_is_missing_is_said(browser, address):
    page = browser.new_page(base_url=address)
    for missing in ("weights.bin", "conv.wasm", "map.json"):
        page.route(f"**/{missing}", lambda route: route.abort())
        page.goto("index.html")
        page.click("#noise")
        page.locator("#status", has_text="cannot").wait_for(timeout=20_000)
        page.unroute(f"**/{missing}")
    page.goto((ROOT / "docs" / "index.html").as_uri())
    assert "python3 -m http.server" in page.inner_text("#status")
    page.close()


def test_links_and_the_social_picture(page):
    links = page.evaluate("[...document.querySelectorAll('a[data-path]')].map((a) => a.href)")
    assert links and all(page.request.get(link).ok for link in links)
    assert Image.open(ROOT / "docs" / "preview.png").size == (1200, 630)
