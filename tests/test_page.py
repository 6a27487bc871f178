"""The web page in a real browser computes what PyTorch computes, and does what it says."""

import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import combinations

import pytest
import torch
from conftest import ROOT
from PIL import Image
from torch.testing import assert_close

import inference
from docs.export_weights import export
from examples.shared import read
from inference import Guided, growing_scale, load_models, trajectory

SCALES = [[], [1, 24, [399, 799]], [2, 0], [0]]  # w, g and window of growing_scale
STEPS = 20
SAME = 0.05  # a distance at which nobody sees a difference
FONTS = ("DejaVu Sans", "Liberation Sans")
SIZES = [(360, 780), (768, 1024), (1400, 900)]


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
def page(browser, address):
    """The page, opened once. At the end, nothing may stand in its console."""
    problems = []
    context = browser.new_context(base_url=address, viewport={"width": 1400, "height": 900})
    context.set_default_timeout(300_000)
    context.on("console", lambda message: problems.append(message.text))
    context.on("weberror", lambda error: problems.append(str(error.error)))
    page = context.new_page()
    page.goto("index.html")
    wait(page)
    yield page
    assert not problems


def other_page(browser, address, **options):
    page = browser.new_page(base_url=address, **options)
    page.set_default_timeout(300_000)
    page.goto("index.html")
    wait(page)
    return page


@pytest.fixture(autouse=True)
def as_at_first(request):
    """Each test begins with the default settings."""
    yield
    if "page" in request.fixturenames:
        page = request.getfixturevalue("page")
        page.set_viewport_size({"width": 1400, "height": 900})
        page.click("#clear")
        page.evaluate("location.hash = location.hash === '#a' ? '#b' : '#a'")
        wait(page)


def wait(page):
    """Until both ways are drawn to their ends."""
    page.wait_for_function("() => !document.body.classList.contains('running')")


def paint(page, name):
    """Let a button of the story paint the bars: the distance of the branch at each step."""
    page.click(f"[data-bars={name}]")
    wait(page)
    return distances(page)


def distances(page):
    code = "(all) => all.map((tile) => Number(tile.style.getPropertyValue('--d')))"
    return page.locator(".tile.pushed").evaluate_all(code)


def pictures(page, selector):
    """Canvases as images (N, 1, 28, 28) in [-1, 1]."""
    code = "(all) => all.map((c) => [...c.getContext('2d').getImageData(0, 0, 28, 28).data])"
    pixels = torch.tensor(page.locator(selector).evaluate_all(code), dtype=torch.float)
    return pixels.view(-1, 1, 28, 28, 4)[..., 0] / 127.5 - 1


def end(page):
    """The picture at the end of the branch."""
    return pictures(page, ".tile.pushed")[-1:]


def levels(page):
    code = "(all) => all.map((input) => Number(input.value))"
    return page.locator("#floor input").evaluate_all(code)


def stroke(page, start, to):
    """Paint from one place of the bars to another: each is a step, and a level."""
    box = page.locator("#floor").bounding_box()

    def place(k, level):
        across, up = box["width"] * (k + 0.5) / STEPS, box["height"] * level / 60
        return box["x"] + across, box["y"] + box["height"] - up

    page.mouse.move(*place(*start))
    page.mouse.down()
    page.mouse.move(*place(*to))
    page.mouse.up()


def test_weights_are_those_of_pytorch(tmp_path):
    export(tmp_path)
    for name in ("weights.bin", "weights.json"):
        assert (tmp_path / name).read_bytes() == (ROOT / "docs" / name).read_bytes(), name


@pytest.fixture(scope="module")
def library(page):
    """TensorFlow.js and both networks in the page itself, beside those of its worker."""
    assert page.evaluate("typeof tf") == "undefined"  # so the page is free while they compute
    page.add_script_tag(url="vendor/tf.min.js")
    page.add_script_tag(url="vendor/tf-backend-wasm.min.js")
    page.evaluate("""async () => {
        window.S = {...await import('./sampler.js'), ...await import('./networks.js')};
        window.networks = await S.loadNetworks();
    }""")


@pytest.mark.parametrize("scale", SCALES, ids=str)
def test_every_step_equals_pytorch(page, library, monkeypatch, scale):
    """Both networks, the gradient, and every x_t and x_0 with the page's noise, up to the image."""
    code = """(scale) => {
        const seeds = S.image_seeds(5, 3), rngs = seeds.map((seed) => new S.Noise(seed));
        const method = new S.Guided(networks.unet, networks.log_p, S.growing_scale(...scale));
        const noise = () => S.gaussian_noise(rngs).dataSync();
        const frames = [...S.draw(method, [3, 1, 4], seeds, 10)];
        return frames.map(({x_t, x_0 = x_t}) => [x_t, x_0, noise()].map((a) => [...a]));
    }"""
    frames = torch.tensor(page.evaluate(code, scale)).view(-1, 3, 3, 1, 28, 28)
    x_t, x_0, noise = frames.unbind(dim=1)  # the last x_t is the image
    noise_again = iter(noise)
    monkeypatch.setattr(inference, "gaussian_noise", lambda shape, rngs: next(noise_again))
    ddpm, classifier = load_models()
    for network in (ddpm.unet, classifier):
        network.half().float()  # as the page's
    w_and_g, window = scale[:2], dict(zip(("low", "high"), scale[2] if scale[2:] else ()))
    method = Guided(ddpm, classifier.log_p, growing_scale(ddpm.scheduler, *w_and_g, **window))
    y = torch.tensor([3, 1, 4])
    steps = [step[1:] for step in trajectory(method, y, range(3), "sde-dpmsolver++", 10)]
    each_x_u, each_x_0 = map(torch.stack, zip(*steps))
    assert_close(x_t, torch.cat([noise[:1], each_x_u]), atol=1e-3, rtol=0)
    assert_close(x_0[:-1], each_x_0, atol=1e-3, rtol=0)


def test_the_fork_is_that_of_the_sampler(page, library):
    """Its pictures and distances, also where steps were remembered from other paintings."""
    paint(page, "late")
    paint(page, "early")
    stroke(page, (8, 30), (14, 10))
    wait(page)
    code = """(levels) => {
        const strengths = levels.map((level) => level === 0 ? 0 : 10 ** (level / 10 - 1));
        const ways = [strengths, strengths.map(() => 0)].map((way) => {
            const scale = (t) => way[(999 - t) / 50];
            const method = new S.Guided(networks.unet, networks.log_p, scale);
            const frames = [...S.draw(method, [5], [S.image_seeds(4, 10)[2]], 20)];
            return frames.slice(0, -1).map(({x_0}) => [...x_0]);
        });
        return ways;
    }"""
    assert 0 < levels(page).count(0) < STEPS
    pushed, alone = torch.tensor(page.evaluate(code, levels(page))).clamp(-1, 1)
    shown = pictures(page, ".tile.pushed").flatten(1)
    assert_close(shown, pushed, atol=0.02, rtol=0)
    exact = (pushed - alone).square().mean(dim=1).sqrt().clamp(max=0.8)
    assert_close(torch.tensor(distances(page)), exact, atol=1e-3, rtol=0)


def test_look_into_a_step(page):
    page.click("#inside")
    assert page.locator(".tile.chosen").count() == 2
    page.locator(".tile.pushed").nth(9).click()
    assert page.inner_text(".look .t") == "t = 549"
    alone, x_0 = (pictures(page, f"[data-shows={name}]") for name in ("alone", "x_0"))
    assert torch.equal(x_0, pictures(page, ".tile.pushed")[9:10]) and not torch.equal(alone, x_0)
    assert page.inner_text("#scale-now") == "2"
    page.click("#next")
    assert page.get_attribute("#look", "aria-valuetext") == "t = 499"
    stroke(page, (10, 1), (10, 1))  # along the bottom
    wait(page)
    alone, x_0 = (pictures(page, f"[data-shows={name}]") for name in ("alone", "x_0"))
    assert torch.equal(alone, x_0) and "not asked" in page.inner_text("#reading")


def test_keyboard(page):
    page.focus("#noise")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "skip"
    page.keyboard.press("Tab")
    bar = page.locator("#floor input").first
    assert bar.evaluate("(node) => node === document.activeElement")
    assert bar.get_attribute("aria-label") == "Push at t = 999"
    assert bar.get_attribute("aria-valuetext") == "1"
    page.keyboard.press("Home")
    assert bar.get_attribute("aria-valuetext") == "none" and levels(page)[0] == 0
    wait(page)
    assert distances(page)[0] == 0
    page.keyboard.press("ArrowUp")
    assert bar.get_attribute("aria-valuetext") == "0.13"
    page.focus("#look")
    page.keyboard.press("End")
    assert page.inner_text(".look .t") == "t = 49" and page.locator(".tile.chosen").count() == 2
    page.focus("#wish :checked")
    page.keyboard.press("ArrowRight")
    assert "wish=6" in page.url
    page.focus("#drawing")
    for key in ("Space", "ArrowDown", "Space"):
        page.keyboard.press(key)
    wait(page)
    assert page.locator("#floor input:disabled").count() > 0  # the drawing is where it begins
    names = page.locator("button, input, canvas[tabindex]").evaluate_all(
        "(all) => all.map((n) => n.ariaLabel || n.innerText || n.parentElement.innerText)"
    )
    assert all(name.strip() for name in names)


def test_a_stroke_restarts_a_run_and_the_address_keeps_it(page, address):
    for level in (50, 10, 35, 20):  # each before the last has come to its end
        stroke(page, (2, level), (17, 60 - level))
    wait(page)
    painted, ways = levels(page), pictures(page, ".tile")
    assert painted[:2] != painted[2:4] and 18 <= painted[2] <= 22 and 38 <= painted[17] <= 42
    link = page.url
    page.click("#noise")
    page.get_by_role("radio", name="7").check()
    wait(page)
    assert "noise=43" in page.url and "wish=7" in page.url
    page.evaluate("(hash) => (location.hash = hash)", link.split("#")[1])
    wait(page)
    assert levels(page) == painted and torch.equal(pictures(page, ".tile"), ways)
    for wrong in ("noise=x&wish=12&bars=1.2", "bars=" + ".".join(["61"] * STEPS)):
        page.evaluate("(hash) => (location.hash = hash)", wrong)
        wait(page)
        assert page.input_value("#wish :checked") == "5" and levels(page)[0] == 10


def test_a_drawing_takes_the_place_of_the_noise(page):
    box = page.locator("#pad")
    box.hover(position={"x": 116, "y": 40})
    page.mouse.down()
    box.hover(position={"x": 116, "y": 190})
    page.mouse.up()
    wait(page)
    silent = page.locator("#floor input:disabled").count()
    for name in ("alone", "pushed"):
        assert page.locator(f".tile.{name}:visible").count() == STEPS - silent < STEPS
    assert read(end(page)).item() == 5
    assert page.inner_text("#end-alone b") == "1"
    page.click("#clear")
    wait(page)
    assert page.locator(".tile.alone:visible").count() == STEPS


def test_on_a_phone_the_fork_is_turned(page):
    page.set_viewport_size({"width": 390, "height": 844})
    box = page.locator("#floor").bounding_box()
    assert box["height"] > 3 * box["width"]
    middle, row = box["x"] + box["width"] / 2, box["height"] / STEPS
    page.mouse.move(box["x"] + 1, box["y"] + 0.5 * row)
    page.mouse.down()
    page.mouse.move(box["x"] + 1, box["y"] + 9.5 * row)  # from noise down to the middle: no push
    page.mouse.move(middle, box["y"] + 10.5 * row)
    page.mouse.move(middle, box["y"] + 19.5 * row)
    page.mouse.up()
    assert levels(page) == [0] * 10 + [30] * 10
    wait(page)
    left, right = (
        page.locator(f".tile.{way}").nth(19).bounding_box() for way in ("alone", "pushed")
    )
    assert right["x"] > left["x"] + 20 and right["y"] == left["y"]  # the branch leans right


TEXTS = """() => {
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), boxes = [];
    while (walker.nextNode()) {
        const text = walker.currentNode, parent = text.parentElement;
        if (!text.data.trim()) continue;
        if (parent.closest('legend, script, template, noscript, math')) continue;
        if (!parent.checkVisibility({opacityProperty: true})) continue;
        if (getComputedStyle(parent).fontSize === '0px') continue;
        const range = document.createRange();
        range.selectNodeContents(text);
        for (const {x, y, width, height} of range.getClientRects())
            if (width > 0) boxes.push([text.data.trim(), x, y, x + width, y + height]);
    }
    return boxes;
}"""


@pytest.mark.parametrize("width, height", SIZES)
def test_no_text_overlaps_or_leaves_the_page(page, width, height):
    page.set_viewport_size({"width": width, "height": height})
    page.evaluate("scrollTo(0, 0)")  # so that nothing is behind the fork
    for font in FONTS:
        style = f":root {{ --serif: '{font}' }} body {{ font-family: '{font}' }}"
        page.add_style_tag(content=style)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        boxes = page.evaluate(TEXTS)
        assert len(boxes) > 60
        assert [box for box in boxes if box[1] < 0 or box[3] > width + 0.5] == []
        assert [pair for pair in combinations(boxes, 2) if overlap(*pair)] == []
        top, bar = page.locator("#top").bounding_box(), page.locator("#floor").bounding_box()
        assert top["height"] < 0.78 * height  # there is room for the story below
        assert bar["width"] * bar["height"] > 20_000  # and room to paint


def overlap(one, other):
    """Whether two lines of text touch each other, by more than what no letter uses."""
    _, left, top, right, bottom = one
    _, left_2, top_2, right_2, bottom_2 = other
    across = min(right, right_2) - max(left, left_2)
    return across > 1 and min(bottom, bottom_2) - max(top, top_2) > 4


def test_reduced_motion_shows_a_way_when_it_is_complete(browser, address):
    page = other_page(browser, address, reduced_motion="reduce")
    page.evaluate("""() => {
        window.times = [];
        const note = () => times.push(performance.now());
        const options = {attributes: true, attributeFilter: ['width'], subtree: true};
        new MutationObserver(note).observe(document.getElementById('ways'), options);
    }""")
    paint(page, "midway")
    assert page.evaluate("times.length") == 1  # all pictures change at once
    page.close()


def test_what_is_missing_is_said_in_one_line(browser, address):
    page = browser.new_page(base_url=address)
    page.goto((ROOT / "docs" / "index.html").as_uri())
    assert "python3 -m http.server" in page.inner_text("#status")
    files = {"tf.min.js": "docs/vendor/", "weights.bin": "Reload", "fork.js": "Reload"}
    for missing, said in files.items():
        page.route(f"**/{missing}", lambda route: route.abort())
        page.goto("index.html")
        page.locator("#status", has_text=said).wait_for(timeout=20_000)
        assert "\n" not in page.inner_text("#status")
        page.unroute(f"**/{missing}")
    page.close()


def test_links_and_the_social_picture(page):
    links = page.evaluate("[...document.querySelectorAll('a[data-path]')].map((a) => a.href)")
    assert len(links) == 4 and all(page.request.get(link).ok for link in links)
    assert Image.open(ROOT / "docs" / "preview.png").size == (1200, 630)
    assert "preview.png" in page.content()
