"""The page of docs/, in a real browser: it computes what PyTorch computes, and its controls act."""

import shutil
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from conftest import ROOT

import inference
from diffusion import SAMPLERS
from docs.export_weights import export
from inference import guide_gradient, load_models, sample

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), None)
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="no Chromium: apt install chromium")
RUN = """async ([code, argument]) => {
    const sampler = await import('./sampler.js');
    window.networks ??= await (await import('./networks.js')).loadNetworks();
    const column = (values) => tf.tensor(values, [values.length / 784, 28, 28, 1]);
    return new Function('S', 'networks', 'column', 'argument', code)(
        sampler, window.networks, column, argument);
}"""
ENDED = "document.getElementById('status').textContent.endsWith('done.')"
PAUSED = "document.getElementById('play').textContent === 'Play'"
DEFAULT_RUN = {
    "y": [3, 1, 4],
    "w": 1,
    "g": 24,
    "low": 0,
    "high": 1000,
    "told": None,
    "second": None,
    "sampler": "sde-dpmsolver++",
    "steps": 10,
    "seed": 5,
}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address():
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(ROOT / "docs")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def page(browser, address):
    """The page, opened once. At the end, nothing may stand in its console."""
    page = browser.new_page()
    problems = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(f"{address}#steps=10")
    page.wait_for_function(ENDED, timeout=120_000)
    yield page
    assert not problems


@pytest.fixture(scope="module")
def networks():
    """Both networks of PyTorch, their weights rounded to float16 like those of the page."""
    unet, classifier = load_models()
    return unet.half().float(), classifier.half().float()


def javascript(page, code, argument=None):
    """What `code` returns; it sees sampler.js as S, the networks, and the argument."""
    return page.evaluate(RUN, [code, argument])


def images(values):
    return torch.tensor(values).view(-1, 1, 28, 28)


def test_weights_are_those_that_ship(tmp_path):
    export(tmp_path)
    for name in ("weights.bin", "weights.json"):
        assert (tmp_path / name).read_bytes() == (ROOT / "docs" / name).read_bytes(), name


@needs_chromium
@pytest.mark.parametrize("t", [999, 499, 49])
def test_networks_and_gradient_equal_pytorch(page, networks, t):
    unet, classifier = networks
    x_t, y, times = torch.randn(3, 1, 28, 28), torch.tensor([3, 1, 4]), torch.full((3,), t)
    code = """
        const x_t = column(argument.x_t), y = tf.tensor(argument.y, [3], 'int32'), t = argument.t;
        const guide = (x, t, y) => S.logP(networks.logits, x, t, y);
        const eps = networks.unet(x_t, tf.fill([3], t));
        return [eps, guide(x_t, t, y), S.guideGradient(guide, x_t, t, y)]
            .map((tensor) => Array.from(tensor.dataSync()));
    """
    argument = {"x_t": x_t.flatten().tolist(), "y": y.tolist(), "t": t}
    eps, log_p, grad = javascript(page, code, argument)
    with torch.no_grad():
        assert (images(eps) - unet(x_t, times).sample).abs().max() < 1e-4
        assert (torch.tensor(log_p) - classifier.log_p(x_t, times, y)).abs().max() < 1e-4
    assert (images(grad) - guide_gradient(classifier.log_p, x_t, times, y)).abs().max() < 1e-4


@needs_chromium
@pytest.mark.parametrize("sampler", ["sde-dpmsolver++", "ddim", "ddpm"])
def test_every_step_equals_pytorch(page, networks, sampler, monkeypatch):
    """x_t at every step of guided sampling, with the page's noise, and the last image."""
    unet, classifier = networks
    code = """
        const run = new S.Sampling(networks, argument), noise = [], x_t = [];
        const generators = argument.y.map((_, column) => new S.Noise(argument.seed, column));
        while (!run.done) {
            noise.push(generators.map((generator) => Array.from(generator.image())));
            x_t.push(Array.from(run.step().x_t));
        }
        noise.push(generators.map((generator) => Array.from(generator.image())));
        return {noise, x_t: [...x_t, Array.from(run.x_t)]};
    """
    result = javascript(page, code, {**DEFAULT_RUN, "sampler": sampler})
    noise = iter(images(each) for each in result["noise"])
    monkeypatch.setattr(inference, "initial_noise", lambda generators: next(noise))
    scheduler_class, _ = SAMPLERS[sampler]
    module = sys.modules[scheduler_class.__module__]
    monkeypatch.setattr(module, "randn_tensor", lambda *args, **kwargs: next(noise))
    seen = []
    settings = {"sampler": sampler, "steps": DEFAULT_RUN["steps"]}
    settings["watch"] = lambda t, x_t, eps_hat: seen.append(x_t)
    final = sample(unet, classifier.log_p, torch.tensor(DEFAULT_RUN["y"]), **settings)
    *steps, last = (images(each) for each in result["x_t"])
    for x_t, expected in zip(steps, seen, strict=True):
        assert (x_t - expected).abs().max() < 1e-3
    assert (last.clamp(-1, 1) - final).abs().max() < 1e-3


def final_images(page, **changes):
    """The last images of `DEFAULT_RUN` with changes, without and with the guide."""
    code = """
        const last = (settings) => {
            const run = new S.Sampling(networks, settings);
            while (!run.done) run.step();
            return Array.from(run.x_t);
        };
        return [last({...argument, w: 0}), last(argument)];
    """
    unguided, guided = javascript(page, code, DEFAULT_RUN | changes)
    return images(unguided), images(guided)


@needs_chromium
def test_the_guide_acts_in_its_window_and_hears_what_it_is_told(page):
    unguided, guided = final_images(page)
    assert (unguided - guided).abs().max() > 0.5
    _, without_window = final_images(page, low=1000)
    assert (without_window - unguided).abs().max() == 0
    _, without_guide = final_images(page, unguided=True)
    assert (without_guide - unguided).abs().max() == 0
    _, early = final_images(page, low=500)
    assert (early - guided).abs().max() > 0.1
    _, told_999 = final_images(page, told=999)
    assert (told_999 - guided).abs().max() > 0.1


@needs_chromium
def test_two_guides_draw_an_ambigram(page, judge):
    _, both = final_images(page, y=[6] * 5, second=9, steps=20)
    for way_up, digit in ((both, 6), (both.flip(2, 3), 9)):
        assert (judge(way_up).argmax(1) == digit).float().mean() >= 0.6


def take_defaults(page):
    """Follow the link to the default settings, and wait until the page has heard of it."""
    page.click("text=Default settings")
    page.wait_for_function("document.getElementById('steps').value === '20'")


def settings_of(page):
    """What the controls show."""
    values = "(node) => [node.id, node.value]"
    found = "document.querySelectorAll('.control select, .control input:not(#from)')"
    return dict(page.evaluate(f"Array.from({found}, {values})"))


@needs_chromium
def test_controls_change_the_address_and_a_link_restores_them(page, browser, address):
    take_defaults(page)
    before = settings_of(page)
    page.select_option("#digit", "7")
    page.select_option("#told", "always 0")
    page.select_option("#sampler", "ddim")
    page.select_option("#steps", "10")
    page.select_option("#second", "2")
    page.fill("#seed", "42")
    page.select_option("#pause", "749")
    for name, value in {"w": 4, "g": 0, "low": 5, "high": 15}.items():
        page.fill(f"#{name}", str(value))
    page.wait_for_function(PAUSED, timeout=60_000)
    assert page.inner_text("#status") == "Call 3 of 10."
    assert page.inner_text("#clock").startswith("t = 799")
    changed = settings_of(page)
    assert all(changed[name] != before[name] for name in before)
    assert page.inner_text("#window-value") == "250 ≤ t < 750"

    other = browser.new_page()
    other.goto(page.url)
    other.wait_for_function(PAUSED, timeout=60_000)
    assert settings_of(other) == changed
    pixels = "document.getElementById('guided-x_t').toDataURL()"
    assert other.evaluate(pixels) == page.evaluate(pixels)
    other.goto(f"{address}#w=nonsense&digit=12")
    other.reload()
    assert settings_of(other) == before
    other.close()
    take_defaults(page)
    assert settings_of(page) == before


@needs_chromium
def test_a_control_lights_up_its_term(page):
    page.mouse.move(0, 0)  # not over a control
    for name, term in {"digit": "y", "w": "st", "told": ", t", "seed": "xt"}.items():
        page.focus(f"#{name}")
        assert page.inner_text("#equation .lit").replace("\n", "") == term


@needs_chromium
def test_play_pause_and_one_step(page):
    page.click("#restart")
    page.click("#play")
    calls = page.inner_text("#status")
    page.click("#step")
    assert page.inner_text("#status") != calls
    assert page.inner_text("#play") == "Play"
    page.click("#play")
    page.wait_for_function(ENDED, timeout=60_000)


@needs_chromium
def test_a_drawing_is_read_and_finished(page, judge):
    page.click("#clear")
    take_defaults(page)
    box = page.locator("#drawing").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"]
    page.mouse.move(x, y + 25)
    page.mouse.down()
    page.mouse.move(x, y + 125, steps=25)
    page.mouse.up()
    page.select_option("#digit", "1")
    page.select_option("#steps", "20")
    page.fill("#from", "299")
    page.click("#finish")
    page.wait_for_function(ENDED, timeout=60_000)
    assert page.inner_text("#status") == "Call 6 of 6: done."
    read = "Array.from(document.getElementById('guided-x_t').getContext('2d')"
    read += ".getImageData(1, 0, 28, 28).data.filter((_, i) => i % 4 === 0))"
    image = images(page.evaluate(read)) / 127.5 - 1
    assert judge(image).argmax() == 1
    page.focus("#drawing")
    ink = "document.getElementById('drawing').toDataURL()"
    before = page.evaluate(ink)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press(" ")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(ink) != before


@needs_chromium
@pytest.mark.parametrize("width", [360, 1600])
def test_it_fits_the_screen(browser, address, width):
    page = browser.new_page(viewport={"width": width, "height": 740})
    page.goto(address)
    page.wait_for_function("document.getElementById('status').textContent.startsWith('Call')")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()
