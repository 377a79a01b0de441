"""`graphnn draw`: a network as a page for the browser."""

from __future__ import annotations

import argparse

import torch

import graphnn
from graphnn import viz
from graphnn.cli.files import read_network
from graphnn.cli.triplets import read_samples, split
from graphnn.summary import bytes_text


def run(given: argparse.Namespace) -> None:
    """Draws `given.file` into `given.output`."""
    if given.output.suffix.lower() not in (".html", ".htm"):
        raise graphnn.FormatError(
            f"{given.output}: the page's name must end in .html "
            f"(got {given.output.suffix or 'no ending'!r})."
        )
    net = read_network(given)
    trace = None
    if given.input is not None:
        with torch.no_grad():
            trace = net.trace(*split(net, read_samples(given.input, net)))
    viz.write_html(net, given.output, trace, given.sample, given.max_edges)
    shown = min(max(given.max_edges, 0), net.graph.num_edges)
    print(
        f"wrote {given.output}: {shown:,} of {net.graph.num_edges:,} edges, "
        f"{bytes_text(given.output.stat().st_size)}"
    )
