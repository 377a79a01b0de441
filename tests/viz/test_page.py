"""Pages in headless Chromium: what they show, say under the pointer, and never fetch."""

import re
from typing import Any

import pytest
import torch
from matplotlib.image import imread

import graphnn

DRAWN = """new Promise((done, fail) => { const look = () =>
    performance.getEntriesByName("drawn").length ? done(true)
    : performance.now() > 20000 ? fail(new Error("nothing is drawn")) : setTimeout(look, 20);
    look(); })"""
PICTURE = "document.getElementById('picture')"


def opened(browser, path):
    browser.open(path)
    browser.run(DRAWN)
    return browser


def slide(browser, name, value):
    """Moves a slider as a user does, and waits until the picture has followed."""
    browser.run(
        f"""new Promise((done) => {{
            {PICTURE}.once("plotly_afterplot", () => requestAnimationFrame(() => done(true)));
            const slider = document.getElementById("{name}");
            slider.value = {value};
            slider.dispatchEvent(new Event("input"));
        }})"""
    )


def place(browser, trace, point):
    """Where on the screen a point of a trace of the figure is."""
    return browser.run(
        f"""(() => {{
            const own = {PICTURE}, trace = own._fullData[{trace}];
            const box = own.querySelector(".nsewdrag").getBoundingClientRect();
            return [box.left + own._fullLayout.xaxis.d2p(trace.x[{point}]),
                    box.top + own._fullLayout.yaxis.d2p(trace.y[{point}])];
        }})()"""
    )


def hover(browser, trace, point):
    """The lines of text that the real mouse finds at a point."""
    browser.move_mouse(1, 1)
    browser.run(until("!lines().length"))
    browser.move_mouse(*place(browser, trace, point))
    return browser.run(until("lines().length"))


def until(condition):
    """A promise of the lines under the pointer, when a condition on them is met."""
    return f"""new Promise((done) => {{
        const lines = () => [...document.querySelectorAll(".hoverlayer .hovertext text")].flatMap(
            (text) => text.querySelectorAll("tspan.line").length
                ? [...text.querySelectorAll("tspan.line")].map((line) => line.textContent)
                : [text.textContent]);
        const look = () => ({condition}) ? done(lines()) : setTimeout(look, 5);
        look();
    }})"""


def told(lines):
    """The numbers of a hover text by name."""
    found = {}
    for line in lines:
        match = re.fullmatch(
            r"([a-z ]+) ([-\N{MINUS SIGN}]?[\d.]+(?:e[-+\N{MINUS SIGN}]\d+)?)", line
        )
        if match:
            found[match[1]] = float(match[2].replace("\N{MINUS SIGN}", "-"))
    return found


def edge_of(lines):
    return int(re.match(r"edge (\d+)", lines[0])[1])  # pyright: ignore[reportOptionalSubscript]


NAMES = [
    "<script>document.title='stolen'</script>",
    "</script><img src=x onerror=document.title='stolen'>",
    "<!--<script>",
    "<b>bold</b>",
    "%{customdata[0]} &amp; $x$",
    "a'\"\\\u2028b",
    "@@SCENE@@",
    "x" * 60,
    "8",
    "9",
    "10",
]


@pytest.fixture(scope="module")
def net():
    """An image, skip edges, a constant, an input that is an output, names that try to get out."""
    graph = graphnn.NeuronGraph(
        [[0, 1, 2, 0, 4, 5, 1, 6, 8, 3], [4, 4, 5, 5, 6, 6, 7, 7, 7, 6]],
        num_neurons=11,
        inputs={"more": [0, 1, 2, 3], "image": [9, 10]},
        outputs=[7, 3],
        activation=["identity"] * 4 + ["tanh"] * 5 + ["identity"] * 2,
        names=NAMES,
    )
    rng = torch.Generator().manual_seed(3)
    return graphnn.Network(graph, backend="reference", generator=rng)


@pytest.fixture(scope="module")
def trace(net):
    image = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 7.0]])
    more = torch.randn(4, 4, generator=torch.Generator().manual_seed(5))
    # Strong edges leave neuron 1, whose contributions cancel in a mean with signs.
    more[:, 1] = torch.tensor([5.0, -5.0, 5.0, -5.0])
    with torch.no_grad():
        return net.trace(more, image)


@pytest.fixture(scope="module")
def page(browser, net, trace, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "net.html"
    graphnn.viz.write_html(net, path, trace, sample=2, image_shape={"image": (1, 2)})
    return opened(browser, path)


# These read one page, and stand before the tests that open another.


def test_it_loads_without_errors_and_fetches_nothing(page):
    assert page.run("document.getElementById('sample-text').textContent") == "2"
    assert page.errors == []
    assert len([url for url in page.requests if not url.startswith("data:")]) == 1
    assert page.run("document.getElementById('caption').textContent").startswith("All 10 edges")


def test_names_are_text(page):
    assert page.run("document.title") == "A network, drawn by graphnn"
    assert page.run("document.querySelectorAll('img').length") == 0
    # plotly.js and page.js run, two more hold numbers.
    assert page.run("document.querySelectorAll('script').length") == 4
    labels = page.run("[...document.querySelectorAll('.textpoint text')].map((t) => t.textContent)")
    assert {"<b>bold</b>", "%{customdata[0]} &amp; $x$", "@@SCENE@@"} <= set(labels)


def test_a_hovered_edge_says_its_triplet(page, net, trace):
    points = page.run(f"{PICTURE}._fullData[0].x.length / {net.graph.num_edges}")
    for sample in (1, 3, 0):
        slide(page, "sample", sample)
        for place_of_edge in range(net.graph.num_edges):
            lines = hover(page, 0, place_of_edge * points + 2)
            edge = edge_of(lines)
            source, weight, at_target = trace.triplets_of([edge])[sample, 0].tolist()
            numbers = told(lines)
            assert numbers["source value"] == pytest.approx(source, rel=1e-4)
            assert numbers["weight"] == pytest.approx(weight, rel=1e-4)
            assert numbers["target value"] == pytest.approx(at_target, rel=1e-4)
            assert numbers["contribution"] == pytest.approx(weight * source, rel=1e-4)
            for neuron in net.graph.edge_index[:, edge].tolist():
                # White space is one space, and the end of what is too long is left out.
                name = " ".join(NAMES[neuron].split())
                shown = name if len(name) <= 48 else name[:47]
                assert shown in lines[0].replace("\xa0", " ")
                assert f"(neuron {neuron})" in lines[0]


def test_a_hovered_neuron_says_its_numbers(page, net, trace):
    slide(page, "sample", 2)
    bias = dict(zip(net.graph.bias_neurons.tolist(), net.bias.tolist(), strict=True))
    seen = set()
    for role in range(2, 6):
        for point in range(page.run(f"{PICTURE}._fullData[{role}].x.length")):
            lines = hover(page, role, point)
            neuron = int(re.findall(r"\(neuron (\d+)\)", lines[0])[0])
            numbers = told(lines)
            assert numbers["value"] == pytest.approx(trace.values[2, neuron].item(), rel=1e-4)
            assert numbers["preactivation"] == pytest.approx(
                trace.preactivations[2, neuron].item(), rel=1e-4
            )
            if neuron in bias:
                assert numbers["bias"] == pytest.approx(bias[neuron], rel=1e-4)
            else:
                assert "bias none" in lines
            seen.add(neuron)
    assert seen == set(range(9))


def test_the_sliders_change_numbers_colours_and_edges(page, net, trace):
    colors = []
    for sample in range(4):
        slide(page, "sample", sample)
        assert page.run("document.getElementById('sample-text').textContent") == str(sample)
        assert page.run(f"{PICTURE}.data[1].z") == [[2 * sample, 2 * sample + 1]]
        colors.append(page.run(f"{PICTURE}.data.flatMap((own) => own.marker?.color ?? [])"))
        assert page.run("document.querySelectorAll('.shapelayer path').length") > 1
    image = page.run(f"(({{type, zmin, zmax}}) => [type, zmin, zmax])({PICTURE}.data[1])")
    assert image == ["heatmap", 0, 7]
    assert len({tuple(own) for own in colors}) == 4
    slide(page, "edges", 3)
    assert page.run(f"{PICTURE}.layout.shapes.map((own) => own.path).join('')").count("M") == 3
    rank = (trace.weight * trace.values[:, net.graph.edge_index[0]]).abs().mean(0)
    shown = page.run(f"{PICTURE}.data[0].customdata.map((row) => row[0])")
    assert sorted(set(shown)) == sorted(rank.topk(3).indices.tolist())


# These open pages of their own.


def test_the_page_and_the_figure_are_the_same_picture(browser, net, trace, tmp_path):
    one = net.trace(trace.values[2:3, :4], trace.values[2:3, 9:])
    shape = {"image": (2, 1)}
    graphnn.viz.write_html(net, tmp_path / "net.html", one, image_shape=shape)
    figure: Any = graphnn.viz.draw(net, one, image_shape=shape)
    opened(browser, tmp_path / "net.html")
    shapes = browser.run(f"{PICTURE}.layout.shapes")
    assert shapes == [shape.to_plotly_json() for shape in figure.layout.shapes]
    for place_of, own in enumerate(figure.data):
        drawn = browser.run(
            f"""(({{x, customdata, marker}}) => [
                x && Array.from(x),
                customdata && Array.from(customdata, (row) => Array.from(row)),
                marker?.color,
                marker && Array.from(marker.size),
            ])({PICTURE}.data[{place_of}])"""
        )
        if own.customdata is None or own.type == "heatmap":
            continue
        assert drawn[0] == pytest.approx(list(own.x), rel=1e-6)
        for row, expected in zip(drawn[1], own.customdata, strict=True):
            for kind in (str, (int, float)):
                found, wanted = (
                    [n for n in own_row if isinstance(n, kind)] for own_row in (row, expected)
                )
                assert found == (wanted if kind is str else pytest.approx(wanted, rel=1e-6))
        if own.mode == "markers":
            assert drawn[2] == list(own.marker.color)
            assert drawn[3] == pytest.approx(list(own.marker.size))


def test_both_signs_are_seen_where_all_edges_are_equally_strong(browser, tmp_path):
    rng = torch.Generator().manual_seed(5)
    edges = torch.cartesian_prod(torch.arange(60), torch.arange(60, 100)).t()
    weight = torch.rand(2400, generator=rng).sub_(0.5).sign_()
    net = graphnn.Network(graphnn.NeuronGraph(edges), weight)
    graphnn.viz.write_html(net, tmp_path / "net.html", max_edges=2400)
    opened(browser, tmp_path / "net.html")
    figure: Any = graphnn.viz.draw(net, max_edges=2400)
    shapes = browser.run(f"{PICTURE}.layout.shapes")
    assert shapes == [shape.to_plotly_json() for shape in figure.layout.shapes]
    browser.screenshot(tmp_path / "net.png")
    pixels = imread(tmp_path / "net.png")[..., :3]
    blue, orange = (
        int((abs(pixels - [one / 255 for one in color]) < 0.02).all(-1).sum())
        for color in ((0, 114, 178), (230, 97, 0))
    )
    assert min(blue, orange) > 20_000
    assert 0.7 < blue / orange < 1.4


def test_the_picture_fits_the_window(browser, net, trace, tmp_path):
    graphnn.viz.write_html(net, tmp_path / "net.html", trace, image_shape={"image": (1, 2)})
    boxes = """[document.documentElement.scrollWidth, document.documentElement.scrollHeight,
        ...[".main-svg", ".legend"].flatMap((own) => {
            const box = document.querySelector(own).getBoundingClientRect();
            return [box.left, box.top, box.right, box.bottom];
        })]"""
    try:
        for width, height in ((1366, 650), (1100, 800), (1920, 1080)):
            browser.resize(width, height)
            opened(browser, tmp_path / "net.html")
            slide(browser, "sample", 1)
            found = browser.run(boxes)
            assert found[:2] == [width, height]
            assert found[2] == 0
            assert found[4:6] == [width, height]
            left, top, right, bottom = found[6:]
            assert left >= 0
            assert right <= width
            assert height - 60 < top < bottom <= height
        # A low one scrolls, but only downwards.
        browser.resize(700, 300)
        opened(browser, tmp_path / "net.html")
        found = browser.run(boxes)
        assert found[0] == found[4] <= 700
        assert found[5] - found[3] == 420
        assert found[1] == found[5]
    finally:
        browser.resize(1300, 900)


def test_scores_follow_the_slider_and_what_is_not_finite_is_said(browser, tmp_path):
    graph = graphnn.NeuronGraph([[0, 1, 2, 2], [3, 3, 3, 4]])
    net = graphnn.Network(
        graph, [float("nan"), float("inf"), 2.0, 1.0], [float("nan"), 1.0], backend="reference"
    )
    scores = torch.randn(4, 4, generator=torch.Generator().manual_seed(8))
    graphnn.viz.write_html(net, tmp_path / "n.html", net.trace(torch.ones(4, 3)), by=scores)
    opened(browser, tmp_path / "n.html")
    points = browser.run(f"{PICTURE}._fullData[0].x.length / 4")
    told_weights = {}
    for sample in (3, 1):
        slide(browser, "sample", sample)
        for place_of_edge in range(4):
            lines = hover(browser, 0, place_of_edge * points + 2)
            edge = edge_of(lines)
            told_weights[edge] = lines[2]
            assert told(lines)["score"] == pytest.approx(scores[sample, edge].item(), rel=1e-4)
    assert told_weights == {0: "weight NaN", 1: "weight Infinity", 2: "weight 2", 3: "weight 1"}
    assert "bias NaN" in hover(browser, 2, 0)
    assert browser.errors == []


def test_twenty_thousand_edges_stay_under_8_megabytes(browser, tmp_path):
    """All that takes room at once: many neurons, names, float64, scores of every sample."""
    rng = torch.Generator().manual_seed(0)
    source = torch.arange(7_000).repeat(3)
    target = torch.randint(3_000, (21_000,), generator=rng) + 7_000
    graph = graphnn.NeuronGraph(
        torch.stack([source, target]).unique(dim=1),
        inputs=range(7_000),
        names=[f"neuron of cell {number}" for number in range(10_000)],
        outputs=range(7_000, 10_000),
    )
    net = graphnn.Network(graph, backend="reference", dtype=torch.float64, generator=rng)
    with torch.no_grad():
        trace = net.trace(torch.randn(40, 7_000, dtype=torch.float64, generator=rng))
    path = tmp_path / "large.html"
    scores = trace.contributions()
    graphnn.viz.write_html(net, path, trace, sample=31, max_edges=20_000, by=scores)
    assert path.stat().st_size < 8_000_000
    opened(browser, path)
    assert browser.errors == []
    assert browser.run("document.getElementById('sample-text').textContent") == "31"
    shapes = browser.run(f"{PICTURE}.layout.shapes")
    lines, squares = (
        [own for own in shapes if ("fillcolor" in own) == is_one] for is_one in (0, 1)
    )
    assert "".join(own["path"] for own in lines).count("M") == 20_000
    caption = browser.run("document.getElementById('caption').textContent")
    assert "The 20,000 edges of largest |score|" in caption
    assert f"Left out: {graph.num_edges - 20_000:,} edges" in caption
    assert re.search(r"Samples 31 to 3\d of 40\.$", caption)
    # Markers would take too long.
    shown = int(browser.run(f"{PICTURE}.data.slice(1, 3).reduce((n, own) => n + own.x.length, 0)"))
    assert "".join(own["path"] for own in squares).count("M") == shown > 9_000
    assert browser.run("document.querySelectorAll('.scatterlayer .point').length") == 0
    assert browser.run(f"{PICTURE}.data[1].customdata[0][0]") == "neuron of cell 0 (neuron 0)"


def test_a_refused_call_leaves_the_old_file(net, trace, tmp_path):
    path = tmp_path / "n.html"
    path.write_text("old")
    with pytest.raises(graphnn.GraphError, match=r"sample must be in 0 \.\.\. 3 \(got 9\)"):
        graphnn.viz.write_html(net, path, trace, sample=9)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
