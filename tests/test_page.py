"""The page of docs/ in a real browser computes what PyTorch computes, and does what it says."""

import re
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from PIL import Image
from torch.testing import assert_close

import inference
from docs.export_weights import export
from examples.ambigram import both_ways
from examples.shared import read
from inference import SAMPLERS, Guided, draw, growing_scale, load_models
from mnist import load_mnist

DIGITS = tuple(range(10))
RUNS = [(None, None, {"sampler": name}) for name in SAMPLERS]  # told, second, options
RUNS += [(None, None, {"scale": [1, 24, [399, 799]]})]  # only 399 is in the window
RUNS += [(0, None, {"scale": [1, 0]}), (None, None, {"scale": [0]})]
RUNS += [(None, 9, {"scale": [2, 0]})]  # growth would magnify rounding errors
TOUR = [  # a step, and what one of its buttons promises: see `look`
    (1, lambda o: o.right <= 4 and torch.equal(o.images, o.plain)),
    (2, lambda o: 3 not in o.digits and max(o.shares) < 0.3 and o.wanted == [3] * 10),
    (3, lambda o: 1 <= len(o.broken) <= 5 and max(o.shares[k] for k in o.broken) > 0.8),
    (3, lambda o: o.digits == [3] * 10 and o.images.var(0).mean() < o.plain.var(0).mean()),
    (3, lambda o: o.digits.count(3) >= 9),
    (4, lambda o: o.as_plain >= 8),
    (4, lambda o: o.right == 10),
    (4, lambda o: o.read == DIGITS and min(o.shares) > 0.9 and o.right < 10),
    (5, lambda o: sorted(o.shares)[1] > 0.4 and sorted(o.shares)[-3] > 0.8),
    (5, lambda o: max(o.shares) < 0.3 and o.as_plain >= 7),
    (6, lambda o: 5 <= o.right <= 9),
    (6, lambda o: o.right == 10),
]


@pytest.fixture(scope="module")
def page():
    """The page, opened once. At the end, nothing may stand in its console."""
    playwright = pytest.importorskip("playwright.sync_api")
    paths = map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))
    path = next(filter(None, paths), None) or pytest.skip("no Chromium: apt install chromium")
    handler = partial(SimpleHTTPRequestHandler, directory=ROOT)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/docs/"
    problems = []
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        context = browser.new_context(base_url=address, reduced_motion="reduce")
        context.set_default_timeout(120_000)
        context.on("console", lambda message: problems.append(message.text))
        context.on("weberror", lambda error: problems.append(str(error.error)))
        page = context.new_page()
        page.goto("index.html")
        page.locator("#clock", has_text="t = 999").wait_for()  # with reduced motion, for Play
        yield page
    server.shutdown()
    assert not problems


def test_weights_and_names_are_those_of_pytorch(tmp_path):
    export(tmp_path)
    for name in ("weights.bin", "weights.json"):
        assert (tmp_path / name).read_bytes() == (ROOT / "docs" / name).read_bytes(), name
    files = ("diffusion.py", "inference.py", "docs/sampler.js")
    process, method, script = ((ROOT / name).read_text() for name in files)
    script, _ = script.split("// --- noise that is the same on every machine")
    defined = r"^(?:export |async )*(?:def|class|function\*?|const(?= \w+ = .*=>)) (\w+)"
    twins, names = (re.findall(defined, text, re.M) for text in (process + method, script))
    assert {"add_noise", "Guided", "first_order", "draw"} < set(names)
    rest = iter(twins)
    assert [name for name in names if name in rest] == names  # a part of the twins, in their order


@pytest.mark.parametrize("told, second, options", RUNS, ids=str)
def test_every_step_equals_pytorch(page, monkeypatch, told, second, options):
    """Both networks, the gradient, and every x_t and x_0 with the page's noise, up to the image."""
    options = {"sampler": "sde-dpmsolver++", "scale": []} | options
    code = """async ([told, second, {sampler, scale}]) => {
        const S = {...await import('./sampler.js'), ...await import('./networks.js')};
        const networks = (window.networks ??= await S.loadNetworks());
        const seeds = S.image_seeds(5, 3), rngs = seeds.map((seed) => new S.Noise(seed));
        const guide = S.guideOf(networks, told, second);
        const method = new S.Guided(networks.unet, guide, S.growing_scale(...scale));
        const noise = () => S.gaussian_noise(rngs).dataSync();
        const frames = [...S.draw(method, [3, 1, 4], seeds, sampler, 10)];
        return frames.map(({x_t, x_0 = x_t}) => [x_t, x_0, noise()].map((a) => [...a]));
    }"""
    frames = torch.tensor(page.evaluate(code, [told, second, options])).view(-1, 3, 3, 1, 28, 28)
    x_t, x_0, noise = frames.unbind(dim=1)  # the last x_t is the image
    noise_again = iter(noise)
    monkeypatch.setattr(inference, "gaussian_noise", lambda shape, rngs: next(noise_again))
    ddpm, classifier = load_models()
    for network in (ddpm.unet, classifier):
        network.half().float()  # as the page's

    def guide(x_t, t, y):
        return classifier.log_p(x_t, t if told is None else torch.full_like(t, told), y)

    y = torch.tensor([3, 1, 4])
    if second is not None:
        guide, y = both_ways(guide), torch.stack([y, torch.full_like(y, second)], dim=1)
    method = Guided(ddpm, guide, growing_scale(ddpm.scheduler, *options["scale"]))
    steps = [step[1:] for step in draw(method, y, range(3), options["sampler"], 10)]
    each_x_u, each_x_0 = map(torch.stack, zip(*steps))
    assert_close(x_t, torch.cat([noise[:1], each_x_u]), atol=1e-3, rtol=0)
    assert_close(x_0[:-1], each_x_0, atol=1e-3, rtol=0)


def test_one_screen(page):
    panels = {"pick": ["#digit", "#w"], "tour": ["#next", ".here .runs"], "draw": ["#drawing"]}
    always = ["header", "math", "#play", "#restart", "#time", ".row >> visible=true >> nth=1"]
    for width, height in ((360, 2000), (390, 844), (1400, 900)):
        page.set_viewport_size({"width": width, "height": height})
        for tab, names in panels.items():
            page.locator(f"#tabs [data-tab={tab}]").dispatch_event("click")
            for box in (page.locator(name).bounding_box() for name in always + names):
                assert 0 <= box["x"] <= width - box["width"], (tab, box)
                assert 0 <= box["y"] <= height - box["height"], (tab, box)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.documentElement.scrollHeight") <= 900
    preview = Image.open(ROOT / "docs" / "preview.png")
    assert preview.size == (1200, 630) and "preview.png" in page.content()
    other = page.context.browser.new_page()  # its console is its own
    other.goto((ROOT / "docs" / "index.html").as_uri())
    assert "python3 -m http.server" in other.inner_text("#stage")


def look(page):
    """What stands in the ten columns."""
    o = SimpleNamespace()
    tiles = "(row) => [...document.querySelectorAll(`#${row} canvas`)]"
    data = f"{tiles}.flatMap((c) => [...c.getContext('2d').getImageData(0, 0, 28, 28).data])"
    rows = [torch.tensor(page.evaluate(data, row)) / 255 for row in ("x_t", "plain", "grad")]
    o.images, o.plain, ink = (row.view(10, 1, 28, 28, 4) for row in rows)
    o.digits, plain = (read(2 * x[..., 0] - 1).tolist() for x in (o.images, o.plain))
    o.right, o.as_plain = (sum(map(int.__eq__, o.digits, other)) for other in (DIGITS, plain))
    o.broken = [k for k in DIGITS if o.images[k, 0, 0, :, 0].mean() > 0.2]  # ink at the edge
    titles = page.evaluate(f"{tiles}.map((c) => c.title)", "reads")  # such as "3: 98 %"
    o.read, o.shares = zip(*((int(title[0]), int(title[2:-1]) / 100) for title in titles))
    images, labels = load_mnist("validation")
    shapes = torch.stack([images[labels == k].mean(dim=0).flatten() for k in DIGITS])
    more_ink = torch.where(ink[..., 0] > ink[..., 2], ink[..., 3], -ink[..., 3]).flatten(1)
    o.wanted = (more_ink @ (shapes - shapes.mean(dim=0)).T).argmax(dim=1).tolist()
    return o


@pytest.mark.parametrize("stop", range(1, 7))
def test_tour(page, stop):
    page.click("#tabs [data-tab=tour]")
    while (place := int(page.inner_text("#place")[0])) != stop:
        page.click("#back" if place > stop else "#next")
    page.locator(".here .guess label:has([value='1'])").click()
    for number, promise in enumerate([promise for step, promise in TOUR if step == stop]):
        page.locator(".here .runs button").nth(number).click()
        page.locator(".here .answer").nth(number).wait_for()
        assert promise(look(page)), (stop, number)
    assert page.inner_text("#place") == f"{stop} of 6, {stop} right"
    if stop == 6:
        page.click("#next")
        assert page.inner_text("#place") == "6 of 6 right"
        page.click("#next")
        assert page.locator("#drawing").evaluate("(node) => node === document.activeElement")
    if stop == 2:
        tiles = page.locator("#x_0 > :nth-child(6) canvas, #parts figure canvas")
        urls = tiles.evaluate_all("(all) => all.map((c) => c.toDataURL())")
        guided, _, alone, _, together = urls
        assert together == guided != alone
        page.click("#play")
        page.get_by_text("done: the guide accepts 10 of 10").wait_for()
        assert look(page).digits == [3] * 10 and page.locator("#x_0 .sure").count() == 10
        page.get_by_role("radio", name="7").check()
        assert page.url.endswith("#digit=7")  # it does not stop at t = 799 any more


def test_a_drawing_becomes_all_ten_digits_until_the_tour_goes_on(page):
    page.click("#tabs [data-tab=draw]")
    page.hover("#drawing", position={"x": 125, "y": 42})
    page.mouse.down()
    page.hover("#drawing", position={"x": 125, "y": 206})
    page.mouse.up()
    assert page.inner_text("#reading li:first-child b") == "1"
    page.click("#finish")
    page.get_by_text("done: ").wait_for()
    assert look(page).right >= 8
    page.press("#time", "Home")
    assert page.inner_text("#clock").startswith("noise t = 449")
    page.click("#tabs [data-tab=tour]")
    page.click("#back")
    page.click(".here [data-run]")
    assert "drawing" not in page.inner_text("#status") and page.locator("#finish").is_disabled()


def test_every_control_and_link(page):
    page.click("#all summary")
    page.click("#defaults")
    page.click("#tabs [data-tab=draw]")
    data = "[...new FormData(document.getElementById('settings'))]"
    settings = f"Object.fromEntries({data}.filter(([name]) => !/guess|row/.test(name)))"
    before = page.evaluate(settings)
    for name in ("pause", "steps", "told", "sampler", "second"):
        page.select_option(f"#{name}", index=0 if name == "steps" else 1)
    page.get_by_role("radio", name="7").check()
    values = {"w": "4", "g": "0", "low": "5", "high": "15", "seed": "42", "from": "10"}
    for name, value in values.items():
        page.fill(f"#{name}", value)
        assert page.locator("math .lit").count() == 1, name
    page.get_by_text("stopped: press Play").wait_for()
    changed, link = page.evaluate(settings), page.url
    assert all(changed[name] != before[name] for name in before) and len(before) == 12
    page.click("#step")
    assert page.inner_text("#clock") == "noise t = 899\nstrength s = 0.00"  # not in the window
    page.press("#time", "ArrowLeft")
    assert page.inner_text("#clock") == "noise t = 999\nstrength s = 0.00"
    page.get_by_role("radio", name="Guide wants").check()
    page.hover(".row[data-row=grad]")
    assert page.locator("math .lit mtext").text_content() == "what the guide wants"
    page.click("#noise")
    assert page.input_value("#seed") == "43"
    page.fill("#seed", "42")
    page.click("#restart")
    page.get_by_text("stopped: press Play").wait_for()
    for address, wanted in (("index.html#w=x&digit=12", before), (link, changed)):
        page.goto(address)
        assert page.evaluate(settings) == wanted
    targets = page.evaluate("[...document.querySelectorAll('a[data-path]')].map((a) => a.href)")
    assert len(targets) == 4 and all(page.request.get(target).ok for target in targets)
