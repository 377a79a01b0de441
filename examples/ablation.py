"""Which score finds the neurons that a network cannot do without?

Hand-written digits, the samples of each class in three clusters. For every cluster the hidden
neurons are ranked by five scores, and the highest are held at zero. A score is worth something
where that hurts more than holding random neurons at zero.

    python examples/ablation.py [folder for the plot]
"""

import sys
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from torch import Tensor, nn

import graphnn
from graphnn.attribution import (
    AblationCurve,
    ablation_curve,
    aggregate,
    conductance,
    gradient,
    gradient_x_value,
    rank,
)

NUM_TRAINED, NUM_CLUSTERS = 1200, 3
# The class and the cluster that are drawn.
SHOWN = 8, 0
STEPS, NUM_ABLATED = (0, 2, 4, 8, 16, 32), 8
FOLDER = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("demo_output")

digits: Any = load_digits()
images = torch.tensor(digits.data / 16, dtype=torch.float32)
labels = torch.tensor(digits.target)
with torch.random.fork_rng():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 10)
    )
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for _ in range(150):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(images[:NUM_TRAINED]), labels[:NUM_TRAINED]).backward()
    optimizer.step()
net = graphnn.from_sequential(model).requires_grad_(False)
x, y = images[NUM_TRAINED:], labels[NUM_TRAINED:]
accuracy = (net(x).argmax(1) == y).float().mean()
print(
    f"{net.graph.num_neurons - 74} hidden neurons, {accuracy:.1%} of {len(x)} unseen images right"
)


def score_clusters(own: Tensor, clusters: Tensor, digit: int) -> dict[str, Tensor]:
    """Name -> (clusters, N) scores of the neurons for one class's images."""
    by_gradient = gradient(net, own, digit)
    return {
        "mean gradient": aggregate(by_gradient, clusters),
        "mean absolute gradient": aggregate(by_gradient, clusters, reduce="mean_abs"),
        "gradient x value": aggregate(gradient_x_value(net, own, digit), clusters),
        "conductance": aggregate(conductance(net, own, digit, steps=20), clusters),
        "activation": aggregate(net.trace(own).values, clusters),
    }


def accuracy_on(own: Tensor, digit: int):
    """From a network to the share of one cluster's images that it reads right."""
    return lambda ablated: (ablated(own).argmax(1) == digit).double().mean()


generator = torch.Generator().manual_seed(0)
is_hidden = (net.graph.level == 1) | (net.graph.level == 2)
results: dict[str, list[AblationCurve]] = {}
shown: dict[str, AblationCurve] = {}
num_mixed = num_driving = num_low = 0
signed_size = absolute_size = 0.0
for digit in range(10):
    own = x[y == digit]
    clusters = torch.tensor(
        KMeans(NUM_CLUSTERS, random_state=0, n_init="auto").fit_predict(own.numpy())
    )
    scores = score_clusters(own, clusters, digit)
    for name, by_cluster in scores.items():
        for cluster in range(NUM_CLUSTERS):
            evaluate = accuracy_on(own[clusters == cluster], digit)
            own_scores = by_cluster[cluster]
            curve = ablation_curve(
                net, own_scores, evaluate, [NUM_ABLATED], draws=2, generator=generator
            )
            results.setdefault(name, []).append(curve)
            if (digit, cluster) == SHOWN:
                shown[name] = ablation_curve(net, own_scores, evaluate, STEPS, generator=generator)
    # Where the signed mean goes wrong: neurons among the strongest by magnitude that it puts into
    # its lower half, and neurons whose gradient has both signs within one cluster.
    by_sample = gradient(net, own, digit)[:, is_hidden]
    for cluster in range(NUM_CLUSTERS):
        mine = by_sample[clusters == cluster]
        num_mixed += int(((mine > 0).any(0) & (mine < 0).any(0)).sum())
        num_driving += int((mine != 0).any(0).sum())
        signed, strongest = rank(mine.mean(0)), rank(mine.abs().mean(0))[:NUM_ABLATED]
        signed_size += mine.mean(0).abs().sum().item()
        absolute_size += mine.abs().mean(0).sum().item()
        num_low += int(torch.isin(strongest, signed[len(signed) // 2 :]).sum())

print(f"\naccuracy on a cluster without {NUM_ABLATED} of the 48, mean over 30 clusters")
print(f"{'ranked by':<24}{'highest':>9}{'lowest':>9}{'random':>9}   highest hurts more than random")
for name, found in results.items():
    top = torch.cat([curve.top for curve in found])
    bottom = torch.cat([curve.bottom for curve in found])
    random = torch.cat([curve.random.mean(0) for curve in found])
    more, drop = int((top < random).sum()), (random - top).mean()
    print(
        f"{name:<24}{top.mean():>9.1%}{bottom.mean():>9.1%}{random.mean():>9.1%}   "
        f"in {more} of {len(found)} clusters, by {100 * drop:.0f} points on average"
    )
    assert len(found) == 10 * NUM_CLUSTERS
lost, low = 1 - signed_size / absolute_size, num_low / 30
print(f"""
All five find neurons that hurt more than random ones. Scores with a sign rank what pushes the class
up. The mean absolute gradient ranks what the class is sensitive to, also where that presses the
class down and its removal helps, so it hurts less.

The signed mean gradient does well at this question, and misleads where it is read as importance:
- of the {NUM_ABLATED} neurons of largest mean absolute gradient it puts {low:.1f} on average into
  its lower half, because they press the class down;
- opposite signs cancel: {num_mixed} of {num_driving} pairs of a neuron and a cluster have both
  within the cluster. Here that costs {lost:.0%} of all magnitude; in clusters that mix what the
  network tells apart it costs more;
- it says what would matter if it changed, not what is there to be taken away: that takes the value
  (gradient x value, conductance).""")

FOLDER.mkdir(parents=True, exist_ok=True)
figure = Figure(figsize=(15, 3.2), layout="constrained")
panels = figure.subplots(1, len(shown), sharey=True)
for axes, (name, curve) in zip(panels, shown.items(), strict=True):
    curve.plot(axes, label=f"accuracy, a cluster of {SHOWN[0]}s")
    axes.set_title(name)
    # One legend and one label for all panels, where they cover no curve.
    axes.label_outer()
    axes.get_legend().remove()
figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
path = FOLDER / "ablation_by_score.svg"
figure.savefig(path)
print(f"\nwritten to {path}")
