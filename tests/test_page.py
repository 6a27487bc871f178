"""The page of docs/, in a real browser: it computes what PyTorch computes, and its controls act."""

import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from conftest import ROOT
from torch.testing import assert_close

import guidance
from docs.export_weights import export
from examples.ambigram import both_ways
from guidance import guide_gradient, sample
from inference import load_models

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
IMPORT = """async () => {
    window.S = await import('./sampler.js');
    window.networks = await (await import('./networks.js')).loadNetworks();
}"""
SETTINGS = {"y": [3, 1, 4], "w": 1, "g": 24, "low": 0, "high": 1000, "told": None, "second": None}
SETTINGS |= {"sampler": "sde-dpmsolver++", "steps": 10, "seed": 5, "unguided": False}
RUNS = [  # each changes some of these settings
    {"sampler": "sde-dpmsolver++"},
    {"sampler": "ddim"},
    {"sampler": "dpmsolver++"},
    {"sampler": "ddpm"},
    {"low": 399, "high": 799},  # both are timesteps of the run; only 399 is in the window
    {"told": 0, "g": 0},
    {"second": 9, "w": 2, "g": 0},  # with g = 24, two guides magnify rounding errors
    {"unguided": True},
]


@pytest.fixture(scope="module")
def page():
    """The page on a small phone, opened once. At the end, nothing may stand in its console."""
    playwright = pytest.importorskip("playwright.sync_api")
    paths = [path for path in map(shutil.which, BROWSERS) if path]
    if not paths:
        pytest.skip("no Chromium: apt install chromium")
    handler = partial(SimpleHTTPRequestHandler, directory=ROOT / "docs")
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    problems = []
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=paths[0], args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 360, "height": 640}, base_url=address)
        context.set_default_timeout(120_000)
        context.on("console", lambda message: problems.append(message.text))
        context.on("weberror", lambda error: problems.append(str(error.error)))
        page = context.new_page()
        page.goto("/")
        page.get_by_text("Call 20 of 20: done.").wait_for()
        page.evaluate(IMPORT)
        yield page
    server.shutdown()
    assert not problems


@pytest.fixture(scope="module")
def networks():
    """Both networks of PyTorch, their weights rounded to float16 like those of the page."""
    unet, classifier = load_models()
    return unet.half().float(), classifier.half().float()


def test_weights_are_those_that_ship(tmp_path):
    export(tmp_path)
    for name in ("weights.bin", "weights.json"):
        assert (tmp_path / name).read_bytes() == (ROOT / "docs" / name).read_bytes(), name


@pytest.mark.parametrize("t", [999, 499, 49])
def test_networks_and_gradient_equal_pytorch(page, networks, t):
    unet, classifier = networks
    x_t, y, times = torch.randn(3, 1, 28, 28), torch.tensor([3, 1, 4]), torch.full((3,), t)
    code = """([pixels, digits, t]) => {
        const x_t = tf.tensor(pixels, [3, 28, 28, 1]), y = tf.tensor(digits, [3], 'int32');
        const guide = (x, t, y) => S.logP(networks.logits, x, t, y);
        const eps = networks.unet(x_t, tf.fill([3], t));
        return [eps, guide(x_t, t, y), S.guideGradient(guide, x_t, t, y)]
            .map((tensor) => Array.from(tensor.dataSync()));
    }"""
    found = page.evaluate(code, [x_t.flatten().tolist(), y.tolist(), t])
    with torch.no_grad():
        expected = [unet(x_t, times).sample, classifier.log_p(x_t, times, y)]
    expected.append(guide_gradient(classifier.log_p, x_t, times, y))
    for values, wanted in zip(found, expected):
        assert_close(torch.tensor(values), wanted.flatten(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("changes", RUNS, ids=str)
def test_every_step_equals_pytorch(page, networks, monkeypatch, changes):
    """x_t at every step, with the page's noise, and the last image."""
    settings = SETTINGS | changes
    code = """(settings) => {
        const run = new S.Sampling(networks, settings);
        const generators = settings.y.map((_, column) => new S.Noise(settings.seed, column));
        const nextNoise = () => Array.from(S.noiseImages(generators).dataSync());
        const noise = [], x_t = [];
        while (!run.done) {
            noise.push(nextNoise());
            x_t.push(Array.from(run.step().x_t));
        }
        return [[...noise, nextNoise()], [...x_t, Array.from(run.x_t)]];
    }"""
    noise, x_t = page.evaluate(code, settings)
    noise = iter(torch.tensor(noise).view(-1, 3, 1, 28, 28))
    monkeypatch.setattr(guidance, "gaussian_noise", lambda shape, generators: next(noise))

    unet, classifier = networks
    y, told, second = torch.tensor(settings["y"]), settings["told"], settings["second"]

    def log_p(x_t, t, y):
        return classifier.log_p(x_t, t if told is None else torch.full_like(t, told), y)

    guide = log_p
    if second is not None:
        guide = both_ways(log_p)
        y = torch.stack([y, torch.full_like(y, second)], dim=1)
    w = 0 if settings["unguided"] else settings["w"]
    options = {"guidance_scale": w, "scale_growth": settings["g"]}
    options |= {"window": (settings["low"], settings["high"])}
    options |= {"sampler": settings["sampler"], "steps": settings["steps"]}
    seen = []
    options["watch"] = lambda t, x_t, x_0: seen.append(x_t)
    final = sample(unet, guide, y, range(3), **options)
    x_t = torch.tensor(x_t).view(-1, 3, 1, 28, 28)
    x_t[-1].clamp_(-1, 1)  # as `sample` does
    assert_close(x_t, torch.stack([*seen, final]), atol=1e-3, rtol=0)


def settings_of(page):
    """What the controls show."""
    values = "(node) => [node.id, node.value]"
    found = "document.querySelectorAll('.control select, .control input:not(#from)')"
    return dict(page.evaluate(f"Array.from({found}, {values})"))


def test_controls_change_the_address_and_a_link_restores_them(page):
    before = settings_of(page)
    for name, value in {"digit": "7", "told": "always 0", "sampler": "ddim", "steps": "10"}.items():
        page.select_option(f"#{name}", value)
    page.select_option("#second", "2")
    page.select_option("#pause", "749")
    for name, value in {"w": "4", "g": "0", "low": "5", "high": "15", "seed": "42"}.items():
        page.fill(f"#{name}", value)
    page.get_by_role("button", name="Play").wait_for()
    assert page.inner_text("#status") == "Call 3 of 10."
    assert page.inner_text("#clock").startswith("t = 799")
    assert page.inner_text("#window-value") == "250 ≤ t < 750"
    changed = settings_of(page)
    assert all(changed[name] != before[name] for name in before)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360

    other = page.context.new_page()
    other.goto(page.url)
    other.get_by_role("button", name="Play").wait_for()
    assert settings_of(other) == changed
    pixels = "document.getElementById('guided-x_t').toDataURL()"
    assert other.evaluate(pixels) == page.evaluate(pixels)
    other.goto("/#w=nonsense&digit=12")
    other.reload()
    assert settings_of(other) == before
    other.close()

    page.get_by_text("Default settings").click()
    page.get_by_text("Call 20 of 20: done.").wait_for()
    assert settings_of(page) == before


def test_play_pause_and_one_step(page):
    page.click("#restart")
    page.click("#play")
    calls = int(page.inner_text("#status").split()[1])
    page.click("#step")
    assert page.inner_text("#status") == f"Call {calls + 1} of 20."
    page.click("#play")
    page.get_by_text("Call 20 of 20: done.").wait_for()


def test_a_drawing_is_read_and_finished(page, judge):
    reading = "document.getElementById('reading').toDataURL()"
    before = page.evaluate(reading)
    page.hover("#drawing")
    box = page.locator("#drawing").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"]
    page.mouse.move(x, y + 25)
    page.mouse.down()
    page.mouse.move(x, y + 125, steps=25)
    page.mouse.up()
    assert page.evaluate(reading) != before
    page.fill("#from", "299")
    page.click("#finish")
    page.get_by_text("Call 6 of 6: done.").wait_for()
    # the second of the unguided images, which is no 1 if the drawing is empty
    canvas = "document.getElementById('unguided-x_t').getContext('2d')"
    pixels = page.evaluate(f"Array.from({canvas}.getImageData(31, 0, 28, 28).data)")
    red = torch.tensor(pixels).view(1, 1, 28, 28, 4)[..., 0]
    assert judge(red / 127.5 - 1).argmax() == 1
