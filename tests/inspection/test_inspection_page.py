"""Content of the page and its behaviour in Chromium."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from inspection_makers import make_view
from samdetr.inspection import write_page

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
HOSTILE = '</script><script>document.title = "broken"</script><b id="broken">&amp;"\'${name}'
# Operates the controls as a user does and records what is shown.
USER = """
<script>
const moves = [["layer", 1], ["layer", 2], ["layer", 3], ["query", 1], ["image", 1]];
const attributes = (shape) =>
  [shape.getAttribute("class"), ...[...shape.attributes].slice(1).map((x) => Number(x.value))];
const seen = moves.map(([id, value]) => {
  const control = document.getElementById(id);
  control.value = value;
  control.dispatchEvent(new Event(id === "layer" ? "input" : "change"));
  return {
    number: document.getElementById("number").textContent,
    headings: [...document.querySelectorAll("h2")].map((x) => x.textContent),
    options: [...document.getElementById("query").options].map((x) => x.text),
    maps: [...document.querySelectorAll("figure")].map((figure) => {
      const canvas = figure.querySelector("canvas");
      const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      return {
        caption: figure.querySelector("figcaption").textContent,
        size: [canvas.height, canvas.width],
        opacity: [...data].filter((_, index) => index % 4 === 3),
        shapes: [...figure.querySelectorAll("svg > *")].map(attributes),
        loaded: figure.querySelector("img").src.startsWith("data:image/jpeg;base64,"),
      };
    }),
  };
});
document.getElementById("drawings").click();
const report = document.createElement("pre");
report.id = "report";
report.textContent = JSON.stringify({
  seen,
  title: document.title,
  broken: document.querySelectorAll("#broken").length,
  hidden: getComputedStyle(document.querySelector("figure svg")).visibility,
  width: document.querySelector("figure img").naturalWidth,
});
document.body.append(report);
</script>
"""


def browse(page, folder):
    """Open a page in Chromium; return its document as text and the lines of its console."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("needs Chromium: `apt-get install chromium` on Debian")
    (folder / "page.html").write_text(page, "utf-8")
    options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom")
    options += ("--virtual-time-budget=5000", "--enable-logging=stderr")
    address = (folder / "page.html").as_uri()
    command = [browser, *options, f"--user-data-dir={folder / 'profile'}", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [x for x in done.stderr.splitlines() if "CONSOLE" in x]


def page_of(tmp_path, *views):
    write_page(tmp_path / "index.html", views)
    return (tmp_path / "index.html").read_text("utf-8")


def data_of(page):
    return json.loads(re.search(r'type="application/json">(.*?)</script>', page, re.DOTALL)[1])


def test_the_page_holds_every_map_to_a_byte(tmp_path):
    view = make_view()
    (image,) = data_of(page_of(tmp_path, view))["images"]
    assert (image["name"], image["width"], image["height"]) == ("a.jpg", 120, 80)
    maps = 0
    for views, queries in zip(view.objects, image["objects"], strict=True):
        for query, found in zip(views, queries, strict=True):
            for layer, shown in zip(query.layers, found["layers"], strict=True):
                for ours, theirs in zip(layer.maps, shown["maps"], strict=True):
                    cells = np.frombuffer(base64.b64decode(theirs["cells"]), np.uint8)
                    weights = cells.reshape(theirs["height"], theirs["width"]) / 255
                    share = ours.weights / ours.weights.max()
                    np.testing.assert_allclose(weights, share, atol=0.5 / 255 + 1e-6)
                    assert theirs["peak"] == pytest.approx(ours.weights.max())
                    maps += 1
    assert maps == 2 * (3 + 2) * 3


def test_names_are_never_html_and_nothing_is_loaded_from_the_network(tmp_path):
    page = page_of(tmp_path, make_view(name=HOSTILE, label=HOSTILE))
    assert HOSTILE not in page and '<b id="broken"' not in page
    (image,) = data_of(page)["images"]
    assert image["name"] == image["objects"][0][0]["label"] == HOSTILE
    assert "default-src 'none'" in page
    assert not re.search(r"https?:|<link|@import|\burl\(|<script[^>]*\bsrc", page)


def shapes_of(image, layer, shown):
    """Yield the kind and attributes, in pixels, of the shapes drawn over a map."""
    width, height = image["width"], image["height"]
    for kind in ("reference", "predicted"):
        if layer[kind]:
            x0, y0, x1, y1 = layer[kind]
            yield [kind, x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height]
    for index, (x, y) in enumerate(shown["points"]):
        if shown["sharpness"]:
            reach = np.sqrt(np.log(2) / np.array(shown["sharpness"][index])) * [width, height]
            yield ["gaussian", x * width, y * height, *reach]
        yield ["keypoint", x * width, y * height, 0.015 * 120]


def check_maps(found, image, views, number):
    """Check that the maps of a layer, counted from 1, are shown for every model."""
    layers = [view["layers"][min(number, len(view["layers"])) - 1] for view in views]
    expected = [(layer, shown) for layer in layers for shown in layer["maps"]]
    for map_found, (layer, shown) in zip(found["maps"], expected, strict=True):
        cells = np.frombuffer(base64.b64decode(shown["cells"]), np.uint8)
        assert map_found["size"] == [shown["height"], shown["width"]]
        assert map_found["opacity"] == np.rint(np.sqrt(255.0 * cells)).tolist()
        assert map_found["caption"] == f"{shown['name']}, peak {shown['peak']:.3f}"
        assert map_found["loaded"]
        shapes = list(shapes_of(image, layer, shown))
        assert [x[0] for x in map_found["shapes"]] == [x[0] for x in shapes]
        for ours, theirs in zip(shapes, map_found["shapes"]):
            np.testing.assert_allclose(theirs[1:], ours[1:], rtol=1e-6)


@pytest.mark.slow
def test_the_slider_moves_through_the_layers_in_a_browser_without_an_error(tmp_path):
    page = page_of(tmp_path, make_view("a.jpg", HOSTILE), make_view("b.jpg", "dog"))
    document, console = browse(page.replace("</body>", USER + "</body>"), tmp_path)
    report = json.loads(html.unescape(re.search(r'<pre id="report">(.*?)</pre>', document)[1]))
    assert console == []
    images = data_of(page)["images"]
    steps = [(0, 0, 1), (0, 0, 2), (0, 0, 3), (0, 1, 3), (1, 0, 3)]  # image, query, layer
    for found, (image, query, number) in zip(report["seen"], steps, strict=True):
        views = images[image]["objects"][query]
        check_maps(found, images[image], views, number)
        score = views[0]["layers"][number - 1]["score"]
        assert found["number"] == f"{number} of 3"
        assert found["headings"][0] == (
            f"model, query {views[0]['query']}: class {views[0]['label']}, score {score:.2f} after "
            f"layer {number} of 3, which reads level {3 - number} (6 x 4 cells)"
        )
        assert len(found["headings"]) == 2
        label = (HOSTILE, "dog")[image]
        assert all(x.startswith(f"{n}: class {label}") for x, n in zip(found["options"], (4, 7)))
    assert (report["title"], report["broken"]) == ("Inside the decoder", 0)
    assert (report["hidden"], report["width"]) == ("hidden", 120)
