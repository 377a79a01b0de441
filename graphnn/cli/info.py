"""`graphnn info`: a network in a screen of text."""

from __future__ import annotations

import argparse

import torch

from graphnn.cli.files import read_network
from graphnn.network_summary import network_facts
from graphnn.summary import SCREEN_COLUMNS, Summary, bytes_text, level_table, room_for_levels


def run(given: argparse.Namespace) -> None:
    """Prints what `given.file` holds."""
    net = read_network(given)
    facts = network_facts(net)
    if net.graph.num_edges:
        facts.append(("weights", _range(net.weight.detach())))
    title = f"{given.file}, {bytes_text(given.file.stat().st_size)}"
    # Two empty lines make it easier to read.
    summary = Summary(title, facts, *level_table(net.graph, room_for_levels(facts) - 2))
    lines = [*summary.fact_lines(SCREEN_COLUMNS), "", *summary.table_lines()]
    print("\n".join([title, "", *lines]))


def _range(weight: torch.Tensor) -> str:
    finite = weight[weight.isfinite()]
    strange = weight.numel() - finite.numel()
    if not finite.numel():
        return f"{strange:,}, none of them finite"
    low, high = (value.item() for value in finite.aminmax())
    zeros = int((finite == 0).sum())
    text = f"from {low:.4g} to {high:.4g}, {zeros:,} of them 0"
    return f"{text}, {strange:,} not finite" if strange else text
