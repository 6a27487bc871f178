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
from torch import nn
from torch.testing import assert_close

from classifier import FiLMBlock
from docs import export
from examples import when
from inference import load_models
from support.pictures import to_uint8

pytestmark = pytest.mark.xdist_group("page")  # one browser, which computes one map
SIZES = [(1280, 720), (1366, 650), (1440, 900), (901, 700), (390, 844), (320, 568)]


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
    """The page with the modules of its worker, and both networks."""
    page = open_page(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    page.evaluate("""async () => {
        window.N = await import('./networks.js');
        window.S = await import('./sampler.js');
        window.networks = await N.loadNetworks();
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


def half(network):
    """A network with weights rounded to float16, as on the page."""
    return network.half().float()


LAYERS = {
    "conv": ("N.conv(w, 'layer', 1, 1)", nn.Conv2d(16, 24, 3, padding=1)),
    "conv with stride": ("N.conv(w, 'layer', 2, 1)", nn.Conv2d(16, 32, 3, stride=2, padding=1)),
    "conv of 1 x 1": ("N.conv(w, 'layer', 1, 0)", nn.Conv2d(16, 1, 1)),
    "GroupNorm": ("N.groupNorm(w, 'layer')", nn.GroupNorm(8, 16)),
    "GroupNorm without weights": ("N.groupNorm(w, 'none')", nn.GroupNorm(8, 16, affine=False)),
    "SiLU": ("N.silu", nn.SiLU()),
    "block": ("N.residual(w, 'layer', e, ['scale_shift', 'skip'], 2)", FiLMBlock(16, 32, 8, 2)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_each_layer_and_its_gradient_equal_pytorch(page, name):
    code, layer = LAYERS[name]
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    weights = {
        f"layer.{key}": [export.channels_last(key, half(value)).tolist(), list(value.shape)]
        for key, value in layer.state_dict().items()
    }
    x, e = torch.randn(1, 16, 8, 8, requires_grad=True), torch.randn(1, 8)
    y = half(layer)(x, e) if name == "block" else half(layer)(x)
    grad = torch.randn_like(y)
    [expected] = torch.autograd.grad(y, x, grad)
    found = page.evaluate(
        """([code, weights, x, embedding, grad]) => {
            const w = {memory: networks.weights.unet.memory};
            for (const [name, [values, shape]] of Object.entries(weights)) {
                const data = Float32Array.from(values.flat(Infinity));
                w[name] = {data, shape: [...shape.slice(2), shape[1], shape[0]]};
            }
            const e = {data: Float32Array.from(embedding), H: 1, W: 1, C: 8};
            const layer = new Function('N', 'w', 'e', `return ${code}`)(N, w, e);
            const [y, back] = layer({data: Float32Array.from(x), H: 8, W: 8, C: 16});
            const of_x = back({...y, data: Float32Array.from(grad)});
            return [[...y.data], [...of_x.data]];
        }""",
        [code, weights, last(x), e.flatten().tolist(), last(grad)],
    )
    for values, tensor in zip(found, (y, expected)):
        assert_close(torch.tensor(values), torch.tensor(last(tensor)), atol=1e-4, rtol=1e-4)


def last(x):
    """The values of x (1, C, H, W), channels last."""
    return x.detach().permute(0, 2, 3, 1).flatten().tolist()


@pytest.mark.parametrize("t", [999, 499, 0])
def test_both_networks_and_the_gradient_equal_pytorch(page, t):
    ddpm, classifier = map(half_pair, load_models())
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
    assert_close(
        torch.tensor(eps), ddpm.unet(x_t, times).sample.detach().flatten(), atol=1e-4, rtol=0
    )
    assert_close(torch.tensor(p[3]).log(), log_p.detach()[0], atol=1e-4, rtol=1e-4)
    assert_close(
        torch.tensor(grad), torch.autograd.grad(log_p, x_t)[0].flatten(), atol=1e-4, rtol=0
    )


def half_pair(network):
    half(network.unet if hasattr(network, "unet") else network)
    return network


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
    ddpm, classifier = map(half_pair, load_models())
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


def choose(page, first, last):
    for end, value in (("begin", first), ("end", last), ("begin", first)):
        page.locator(f"#{end}").fill(str(value))
        page.locator(f"#{end}").blur()  # without the ring around it
    assert push(page) == (first, last)


def pixels(page, selector):
    """What the screen shows of an element: (height, width, 3)."""
    picture = Image.open(io.BytesIO(page.locator(selector).screenshot())).convert("RGB")
    return np.asarray(picture).astype(int)


def is_orange(colors):
    return colors[..., 0] - colors[..., 2] > 100


def test_the_first_picture_needs_neither_networks_nor_much_data(browser, address):
    page, sizes = browser.new_page(base_url=address), []
    page.on("response", lambda response: sizes.append(len(response.body())))
    page.goto("index.html", wait_until="networkidle")
    page.wait_for_selector("#result:not(.moving)")
    assert (pixels(page, "#fork").max(axis=2) < 100).mean() > 0.005
    assert (pixels(page, "#result").max(axis=2) < 100).mean() > 0.05
    assert page.inner_text("#headline").startswith("Not enough: it ends as a")
    assert page.inner_text("#progress") == "" and sum(sizes) < 300_000
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
def test_each_screen_shows_the_fork(open_page, width, height):
    page = open_page(viewport={"width": width, "height": height}, reduced_motion="reduce")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    box = page.locator("#tasks" if width > 1000 else "#push").bounding_box()
    assert box["y"] + box["height"] <= height  # without scrolling
    steps = np.arange(1, 21)
    for first, last, end in ((1, 9, 2), (11, 11, 0)):  # it ends at the bottom, and at the top
        choose(page, first, last)
        pushed = (first <= steps) & (steps <= last)
        track, fork = pixels(page, "#track"), pixels(page, "#fork")
        columns = ((steps - 0.5) * track.shape[1] / 20).astype(int)
        assert is_orange(track[9, columns]).tolist() == pushed.tolist()
        left = page.evaluate("document.getElementById('track').offsetLeft")
        tinted = np.ptp(fork[-2, left + columns], axis=1) > 15
        assert tinted.tolist() == pushed.tolist()
        paper = (fork[:, -(fork.shape[1] // 4) :] == 255).all(axis=2)  # of the thumbnails
        thirds = [part.mean() for part in np.array_split(paper, 3)]
        assert thirds[end] == max(thirds) > 0.1 and sorted(thirds)[1] == 0
        assert (fork[:, : left - 4].max(axis=2) < 90).mean() > 0.01  # the noise
    assert page.evaluate(COVERED, VISIBLE) == []
    page.close()


def test_handles_band_and_map_choose_the_push(page):
    choose(page, 1, 10)
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
    page.evaluate("scrollTo(0, 0)")


def test_the_three_tasks_can_be_completed(page):
    """On the map that is shipped. Nothing below moves, and nothing is completed while dragging."""
    page.goto("index.html")
    page.reload()
    page.wait_for_function("() => !document.getElementById('status').textContent")
    kinds = page.evaluate("""async () => {
        const map = await (await import('./paths.js')).loadShipped();
        return map.pushes().map(({a, b, kind}) => [a + 1, b, kind]);
    }""")
    place = page.locator("#lower").bounding_box()
    target = [(last - first, first, last) for first, last, kind in kinds if kind == "target"]
    broken = [(first, last) for first, last, kind in kinds if kind == "broken"]
    earliest, latest = min(last for _, _, last in target), max(first for _, first, _ in target)
    assert page.inner_text("#finding") == (
        f"No push that ends before step {earliest} makes it a {when.DIGIT}, "
        f"and none that begins after step {latest}."
    )
    track = page.locator("#track").bounding_box()
    page.mouse.move(track["x"] + (max(target)[2] - 0.5) * track["width"] / 20, track["y"] + 20)
    page.mouse.down()
    assert page.inner_text("#headline") == f"It ends as a {when.DIGIT}."
    done = [page.locator("#tasks .done").count()]
    page.mouse.up()
    for first, last in (max(target)[1:], min(target)[1:], max(broken)):
        choose(page, first, last)
        done.append(page.locator("#tasks .done").count())
    assert done == [0, 1, 2, 3] and page.locator("#lower").bounding_box() == place


def test_the_sentence_says_what_the_path_shows(page):
    """Each kind of result, and each way to get there."""
    cases = [
        (
            [0, 11, 5, 0.1, 1],
            "It ends as a 5. After step 11, the model continued alone and kept the 5.",
        ),
        (
            [0, 8, 5, 0.1, -1],
            "It ends as a 5. After step 8, the model continued alone and went on to the 5.",
        ),
        ([3, 20, 5, 0.1, 1], "It ends as a 5. It was pushed to the end."),
        (
            [0, 10, 7, 0.1, 1],
            "Not enough: it ends as a 7 anyway. "
            "The push ended after step 10, and the model went on to the 7.",
        ),
        (
            [13, 20, 7, 0.1, 1],
            "Not enough: it ends as a 7 anyway. It was pushed to the end, but the 7 stayed.",
        ),
        (
            [9, 10, 8, 0.1, 1],
            "It ends as an 8: neither 7 nor 5. After step 10, the model continued alone.",
        ),
        (
            [15, 20, 5, 0.3, 1],
            "Damaged. The classifier says 5 (91%); the diffusion model would hardly draw this.",
        ),
    ]
    found = page.evaluate(
        """async (cases) => {
        const {PushMap} = await import('./paths.js'), {sentences} = await import('./words.js');
        return cases.map(([[a, b, shown, surprise, height]]) => {
            const map = new PushMap({digit: 5}, 0.2);
            const p = Array.from({length: 10}, (_, digit) => digit === shown ? 0.91 : 0.01);
            const path = map.add({a, b, p, surprise, heights: Array(21).fill(height), unpushed: 7});
            return sentences(path, map).join(' ');
        });
    }""",
        cases,
    )
    assert found == [sentence for _, sentence in cases]


def test_another_map_is_computed_and_the_browser_goes_back(open_page):
    page = open_page("#noise=7&digit=3&from=3&until=14")
    assert (
        push(page) == (3, 14) and page.inner_text("#headline") == "…"
    )  # no verdict of another map
    page.wait_for_function("() => document.getElementById('headline').textContent !== '…'")
    assert "…" not in page.inner_text("#lead")
    page.get_by_role("radio", name="4").check()
    page.click("#noise")
    assert "noise=8&digit=4" in page.url
    for expected in ("noise=7&digit=4", "noise=7&digit=3"):
        page.go_back()
        assert expected in page.url
    assert push(page) == (3, 14) and page.inner_text("#headline") != "…"  # known already
    page.goto("index.html#noise=x&digit=12&strength=9&from=30&until=-1")
    page.reload()
    page.wait_for_function("() => !document.getElementById('status').textContent")
    assert page.is_checked(f"#digits input[value='{when.DIGIT}']") and push(page) == (1, 9)
    page.close()


def test_the_unpushed_digit_cannot_be_chosen(open_page):
    """Another one is chosen as soon as it is known."""
    _, log_p = when.pushed_paths(*load_models(), [7], torch.tensor([(0, 0, 0)]))
    digit = log_p[0, -1].argmax().item()
    page = open_page(f"#noise=7&digit={digit}")
    page.wait_for_function(f"() => location.hash.includes('digit={(digit + 1) % 10}')")
    assert page.is_disabled(f"#digits input[value='{digit}']")
    page.close()


def test_a_drawing_takes_the_place_of_the_noise(page):
    choose(page, 2, 5)
    page.locator("#pad").scroll_into_view_if_needed()
    box = page.locator("#pad")
    box.hover(position={"x": 106, "y": 40})
    page.mouse.down()
    box.hover(position={"x": 106, "y": 170})
    page.mouse.up()
    assert push(page) == (13, 20) and page.inner_text("#total") == "36"
    page.wait_for_function("() => document.querySelector('.unpushed').textContent === 'a 1'")
    page.click("#clear")
    assert push(page) == (2, 5) and page.inner_text("#total") == "210"
    page.wait_for_function("() => document.querySelector('.unpushed').textContent !== 'a 1'")
    page.evaluate("scrollTo(0, 0)")


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
