"""The web page in a real browser computes what PyTorch computes, and does what it says."""

import base64
import io
import re
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from conftest import ROOT
from PIL import Image
from torch import nn
from torch.testing import assert_close
from torchvision.transforms.functional import pil_to_tensor

from classifier import FiLMBlock
from docs import export
from examples import when
from inference import load_models

pytestmark = pytest.mark.xdist_group("page")  # one browser, which computes one map
SIZES = [(360, 780), (768, 1024), (1280, 800)]


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


def test_the_map_is_that_of_python(page):
    """Windows of the worker, with float16 weights: images, and both verdicts."""
    ddpm, classifier = map(half_pair, load_models())
    windows = [(0, 0), (0, 20), (0, 9), (4, 13), (12, 20)]
    found = page.evaluate(
        """(windows) => new Promise((resolve) => {
            const worker = new Worker('worker.js', {type: 'module'}), found = [];
            worker.onmessage = ({data}) => {
                found.push([[...data.film.slice(-784)], data.p, data.surprise]);
                if (found.length === windows.length) resolve(found);
            };
            worker.postMessage({id: 1, noise: 3, digit: 7, strength: 1, drawing: null, windows});
        })""",
        windows,
    )
    y = torch.tensor([(7, a, b) for a, b in windows])
    images = when.pushed_images(ddpm, classifier, [3] * len(y), y)
    film, p, surprises = (torch.tensor(values) for values in zip(*found))
    assert_close(film / 127.5 - 1, images.flatten(1), atol=0.02, rtol=0)
    chances = classifier(images, torch.zeros(len(y), dtype=torch.long)).softmax(dim=1)
    assert_close(p, chances.detach(), atol=0.01, rtol=0)
    assert_close(surprises, when.surprise(ddpm, images), atol=1e-3, rtol=0)


# --- the page ---


def bracket(page):
    return tuple(int(page.get_attribute(f"#{end}", "aria-valuenow")) for end in ("begin", "end"))


def drag(page, end, step):
    box, handle = page.locator("#time").bounding_box(), page.locator(f"#{end}").bounding_box()
    y = handle["y"] + handle["height"] / 2
    page.mouse.move(handle["x"] + handle["width"] / 2, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * step / 20, y, steps=5)
    page.mouse.up()


def test_the_bracket_and_the_map_move_together(page):
    assert bracket(page) == (0, 12)  # with reduced motion
    drag(page, "end", 5)
    assert bracket(page) == (0, 5) and "Forgotten" in page.inner_text("#sentence")
    drag(page, "end", 20)
    assert bracket(page) == (0, 20) and page.inner_text("#sentence") == "It becomes a 5."
    drag(page, "begin", 17)
    assert bracket(page) == (17, 20) and "would not" in page.inner_text("#model")
    drag(page, "begin", 25)  # it stops at the other end
    assert bracket(page) == (19, 20)
    cells = page.locator("#cells").bounding_box()
    cell = cells["width"] / 20
    page.mouse.move(cells["x"] + 3.5 * cell, cells["y"] + 4.5 * cell)  # from step 3 until 16
    assert bracket(page) == (3, 16)


def test_the_first_map_is_replaced_by_the_same_map(page):
    """The page shows map.png until its workers have computed it: here, the first 60 windows."""

    def pixels():
        url = page.evaluate("document.getElementById('cells').toDataURL()")
        file = io.BytesIO(base64.b64decode(url.partition(",")[2]))
        return pil_to_tensor(Image.open(file)).int()

    page.reload()
    page.wait_for_function("() => !document.getElementById('status').textContent")
    shown = pixels()
    page.wait_for_function("() => parseInt(document.getElementById('progress').textContent) > 60")
    assert ((shown - pixels()).abs() < 16).float().mean() > 0.997


def test_keyboard_address_and_back(open_page):
    page = open_page("#noise=7&digit=3&strength=0&from=2&until=14")
    assert bracket(page) == (2, 14)
    page.focus("#end")
    page.keyboard.press("ArrowLeft")
    page.focus("#begin")
    page.keyboard.press("Home")
    assert bracket(page) == (0, 13) and page.url.endswith("from=0&until=13")
    page.get_by_role("radio", name="4").check()
    page.click("#noise")
    assert "noise=8&digit=4" in page.url
    for expected in ("noise=7&digit=4", "noise=7&digit=3", "from=2&until=13"):
        page.go_back()
        assert expected in page.url
    assert bracket(page) == (2, 13)
    page.wait_for_function("() => document.getElementById('sentence').textContent")
    page.goto("index.html#noise=x&digit=12&strength=9&from=30&until=-1")
    page.reload()
    page.wait_for_function("() => !document.getElementById('status').textContent")
    assert page.is_checked("#digit-5") and bracket(page)[0] == 0
    page.close()


def test_a_new_map_never_shows_verdicts_of_the_old_one(page):
    page.click("#noise")
    assert "waiting" in page.get_attribute("#stage", "class")
    page.wait_for_function("() => !document.getElementById('stage').classList.contains('waiting')")
    page.go_back()


def test_a_drawing_takes_the_place_of_the_noise(page):
    page.locator("#pad").scroll_into_view_if_needed()
    box = page.locator("#pad")
    box.hover(position={"x": 106, "y": 40})
    page.mouse.down()
    box.hover(position={"x": 106, "y": 170})
    page.mouse.up()
    assert bracket(page) == (12, 20)
    page.wait_for_function("() => document.getElementById('alone').textContent === 'a 1'")
    page.click("#clear")
    page.wait_for_function("() => document.getElementById('alone').textContent !== '…'")
    page.evaluate("scrollTo(0, 0)")


@pytest.mark.parametrize("width, height", SIZES)
def test_nothing_leaves_the_page(page, width, height):
    page.set_viewport_size({"width": width, "height": height})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    top = page.locator("#time").bounding_box()
    assert top["y"] + top["height"] <= height  # the bracket is visible at once
    page.set_viewport_size({"width": 1280, "height": 800})


def test_what_is_missing_is_said(browser, address):
    page = browser.new_page(base_url=address)
    for missing in ("weights.bin", "conv.wasm", "map.json"):
        page.route(f"**/{missing}", lambda route: route.abort())
        page.goto("index.html")
        page.locator("#status", has_text=re.compile("cannot|failed")).wait_for(timeout=20_000)
        page.unroute(f"**/{missing}")
    page.goto((ROOT / "docs" / "index.html").as_uri())
    assert "python3 -m http.server" in page.inner_text("#status")
    page.close()


def test_links_and_the_social_picture(page):
    links = page.evaluate("[...document.querySelectorAll('a[data-path]')].map((a) => a.href)")
    assert links and all(page.request.get(link).ok for link in links)
    assert Image.open(ROOT / "docs" / "preview.png").size == (1200, 630)
