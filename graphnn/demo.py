"""The demo: from a trained nn.Sequential to a graph, its triplets, files and pictures."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import graphnn
from graphnn.io.atomic import replacing

if TYPE_CHECKING:
    from tqdm import tqdm

_SIZES = (64, 64, 32, 10)
_NUM_TEST = 360
_NUM_STRONGEST = 50
_NUM_DRAWN = 1_500
_ABLATION_STEPS = 9
_SEED = 0


@dataclass(frozen=True)
class DemoResult:
    """What a run of the demo found and wrote.

    Args:
        accuracy: The share of test images that the network reads right, in [0, 1].
        difference: The largest absolute difference between the outputs of the nn.Sequential and of
            the converted network, over all test images.
        scale: The largest absolute output, which the difference is to be compared with.
        triplet_shapes: (B, E_level, 3) for each of the levels 1 ... L - 1.
        graphml: Path of the graph, with one image's values.
        safetensors: Path of the network.
        table: Path of the strongest edges.
        page: Path of the picture, which a browser opens.
        plot: Path of the accuracy without the neurons of the highest, lowest and random scores.
    """

    accuracy: float
    difference: float
    scale: float
    triplet_shapes: tuple[tuple[int, ...], ...]
    graphml: Path
    safetensors: Path
    table: Path
    page: Path
    plot: Path


@dataclass(frozen=True)
class _Digits:
    """Images (n, 64) of pixels in [0, 1] and their labels (n,), for training and for testing."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def run(output: str | Path = "demo_output", epochs: int = 30) -> DemoResult:
    """Trains a digit reader, converts it, takes it apart and says so on standard output.

    Args:
        output: Folder for the files; made where it is missing.
        epochs: Passes over the training images; at least 1.

    Returns:
        The numbers that were printed, and the paths of the files.

    Raises:
        GraphError: `epochs` is below 1.
        ImportError: scikit-learn, pandas, tqdm, plotly or matplotlib is not installed.
        ConversionError: The converted network disagrees with the model.
    """
    if epochs < 1:
        raise graphnn.GraphError(f"epochs must be at least 1 (got {epochs}).")
    _require_packages()
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()

    print("graphnn demo: a network that reads handwritten digits, as a graph\n")
    digits = _load_digits()
    model = _train(digits, epochs)
    with torch.no_grad():
        accuracy = _accuracy(model, digits.test_images, digits.test_labels)
        print(
            f"1. Trained nn.Sequential {'-'.join(map(str, _SIZES))} on "
            f"{len(digits.train_labels):,} images of 8 x 8 pixels.\n"
            f"   It reads {accuracy:.1%} of {len(digits.test_labels)} unseen images right."
        )
        net = graphnn.from_sequential(model)
        difference, scale = _compare(model, net, digits.test_images)
        trace = net.trace(digits.test_images)
        triplets = trace.triplets()
        _tell_triplets(trace, triplets, int(digits.test_labels[0]))
        paths = _write(net, trace, folder)
    page, plot = _draw(net, trace, digits, folder)
    print(
        f"\nDone in {time.perf_counter() - started:.0f} seconds. "
        f"Open {page} in a browser,\nor describe the network with: graphnn info {paths[0]}"
    )
    shapes = tuple(tuple(level.shape) for level in triplets)
    return DemoResult(accuracy, difference, scale, shapes, *paths, page, plot)


def _require_packages() -> None:
    missing = []
    packages = {"sklearn": "scikit-learn"}
    for module in ("sklearn", "pandas", "tqdm", "plotly", "matplotlib"):
        try:
            __import__(module)
        except ImportError:
            missing.append(packages.get(module, module))
    if missing:
        raise ImportError(
            f"the demo needs {' and '.join(missing)}, not installed here: "
            "pip install 'graphnn[demo]'"
        )


def _load_digits() -> _Digits:
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    # float64 counts of ink, 0 ... 16.
    images = torch.from_numpy(bunch.data).to(torch.float32) / 16
    labels = torch.from_numpy(bunch.target).to(torch.int64)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(_SEED))
    test, train = order[:_NUM_TEST], order[_NUM_TEST:]
    return _Digits(images[train], labels[train], images[test], labels[test])


def _train(digits: _Digits, epochs: int) -> nn.Sequential:
    from tqdm import tqdm

    # nn.Linear draws from the global generator, whose state is the caller's.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        first, second, third, last = _SIZES
        model = nn.Sequential(
            nn.Linear(first, second), nn.ReLU(),
            nn.Linear(second, third), nn.ReLU(),
            nn.Linear(third, last),
        )  # fmt: skip
    progress = tqdm(range(epochs), desc="training", unit="epoch", ncols=79, leave=False)
    threads = torch.get_num_threads()
    # On matrices this small a second thread only waits for the first.
    torch.set_num_threads(1)
    try:
        _fit(model, digits, progress)
    finally:
        torch.set_num_threads(threads)
    return model.eval()


def _fit(model: nn.Sequential, digits: _Digits, epochs: tqdm[int]) -> None:
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(_SEED)
    for _ in epochs:
        total = 0.0
        for batch in torch.randperm(len(digits.train_labels), generator=generator).split(64):
            loss = nn.functional.cross_entropy(
                model(digits.train_images[batch]), digits.train_labels[batch]
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.item() * len(batch)
        epochs.set_postfix(loss=f"{total / len(digits.train_labels):.4f}")


def _accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    return (model(images).argmax(1) == labels).float().mean().item()


def _compare(model: nn.Sequential, net: graphnn.Network, images: Tensor) -> tuple[float, float]:
    expected = model(images)
    difference = (net(images) - expected).abs().max().item()
    scale = expected.abs().max().item()
    graph = net.graph
    print(
        f"2. Converted it with graphnn.from_sequential: {graph.num_neurons:,} neurons, "
        f"{graph.num_edges:,} edges,\n   {graph.num_levels} levels, "
        f"{sum(p.numel() for p in net.parameters()):,} parameters."
    )
    # The bound that every conversion keeps in float32.
    if not difference <= 1e-5 * scale:
        raise graphnn.ConversionError(
            f"the converted network must agree with the model, but their outputs differ by "
            f"{difference:.2g}, where they reach {scale:.2g}."
        )
    print(
        f"   Model and graph give the same outputs: the largest difference is {difference:.3g},\n"
        f"   where outputs reach {scale:.1f}."
    )
    return difference, scale


def _tell_triplets(trace: graphnn.Trace, triplets: list[Tensor], label: int) -> None:
    print("3. Extracted the triplets (source value, edge weight, target value), level by level:")
    for level, of_level in enumerate(triplets, start=1):
        images, edges, _ = of_level.shape
        print(f"   level {level}: {images} images x {edges:,} edges x 3")
    edge = trace.top_edges(1, sample=0)
    source, weight, target = trace.triplets_of(edge)[0, 0].tolist()
    ids = trace.graph.edge_index[:, edge[0]].tolist()
    print(
        f"   The strongest edge of image 0, a {label}: neuron {ids[0]}, at {source:.3g}, feeds "
        f"neuron {ids[1]},\n   at {target:.3g}, through the weight {weight:.3g}."
    )


def _write(net: graphnn.Network, trace: graphnn.Trace, folder: Path) -> tuple[Path, Path, Path]:
    graphml, tensors, table = (
        folder / name for name in ("digits.graphml", "digits.safetensors", "strongest_edges.csv")
    )
    graphnn.write_graphml(net, graphml, trace=trace, sample=0)
    graphnn.save(net, tensors)
    strongest = trace.top_edges(_NUM_STRONGEST)
    frame = trace.to_frame(sample=0, edges=strongest)
    frame["mean_contribution"] = trace.contributions(strongest).mean(0).numpy()
    with replacing(table) as temporary:
        frame.to_csv(temporary)

    for path, read in ((graphml, graphnn.read_graphml), (tensors, graphnn.load)):
        again = read(path)
        same = torch.equal(again.weight, net.weight) and torch.equal(again.bias, net.bias)
        if again.graph != net.graph or not same:
            raise graphnn.FormatError(f"{path}: read back, it is not the network that was written.")
    print(f"4. Wrote, and read back bit for bit, into {folder}:")
    _tell_file(graphml, "the graph with image 0's values, for Gephi, yEd and Cytoscape")
    _tell_file(tensors, "the network, for graphnn.load")
    _tell_file(table, f"the {_NUM_STRONGEST} edges that contribute most over all test images")
    return graphml, tensors, table


def _draw(
    net: graphnn.Network, trace: graphnn.Trace, digits: _Digits, folder: Path
) -> tuple[Path, Path]:
    images, labels = digits.test_images, digits.test_labels
    page, plot = folder / "digits.html", folder / "ablation.svg"
    graphnn.viz.write_html(net, page, trace, max_edges=_NUM_DRAWN, image_shape=(8, 8))
    scores = graphnn.attribution.gradient_x_value(net, images, labels).mean(0)
    curve = graphnn.attribution.ablation_curve(
        net,
        scores,
        lambda ablated: _accuracy(ablated, images, labels),
        _ABLATION_STEPS,
        draws=3,
        generator=torch.Generator().manual_seed(_SEED),
    )
    figure = curve.plot(label="accuracy")
    with replacing(plot) as temporary:
        figure.savefig(temporary, format="svg")
    ablated = curve.num_ablated[len(curve.num_ablated) // 4]
    top, random = (
        column[..., len(curve.num_ablated) // 4].mean().item()
        for column in (curve.top, curve.random)
    )
    print(
        f"5. Without the {ablated} hidden neurons of the highest gradient x value the network "
        f"reads {top:.1%}\n   of the images right, without {ablated} random ones {random:.1%}. "
        "Drew it, too:"
    )
    _tell_file(page, "the network and what it does with each image, for a browser")
    _tell_file(plot, "the accuracy as more and more neurons are taken away")
    return page, plot


def _tell_file(path: Path, what: str) -> None:
    print(f"   {path.name:<20} {path.stat().st_size / 1000:>7,.0f} kB  {what}")
