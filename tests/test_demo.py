"""The demo, on fewer epochs."""

import builtins
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pytest
import torch

import graphnn
from graphnn import demo


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "made" / "here"
    before = torch.get_rng_state()
    result = demo.run(folder, epochs=4)
    assert torch.equal(torch.get_rng_state(), before)
    return result


def test_it_learns_to_read(ran):
    assert ran.accuracy > 0.8


def test_outputs_agree(ran):
    assert 0 <= ran.difference <= 1e-5 * ran.scale
    assert ran.scale > 1


def test_triplets_are_of_every_test_image_and_level(ran):
    assert ran.triplet_shapes == ((360, 4096, 3), (360, 2048, 3), (360, 320, 3))


def test_files_hold_the_network(ran):
    net = graphnn.load(ran.safetensors)
    assert (net.in_features, net.out_features, net.graph.num_edges) == (64, 10, 6464)
    again = graphnn.read_graphml(ran.graphml)
    assert again.graph == net.graph
    assert torch.equal(again.weight, net.weight)
    assert torch.equal(again.bias, net.bias)


def test_table_holds_the_strongest_edges(ran):
    table = pd.read_csv(ran.table)
    assert len(table) == 50
    strength = table["mean_contribution"].abs().to_numpy()
    assert (np.diff(strength) <= 1e-6).all()
    net = graphnn.load(ran.safetensors)
    source, target = net.graph.edge_index[:, table["edge"].to_list()]
    assert table["source"].to_list() == source.tolist()
    assert table["target"].to_list() == target.tolist()
    np.testing.assert_allclose(table["weight"], net.weight.detach()[table["edge"].to_list()])
    np.testing.assert_allclose(
        table["contribution"], table["weight"] * table["source_value"], rtol=1e-5, atol=1e-7
    )


def test_only_the_files_are_left(ran):
    names = {path.name for path in ran.table.parent.iterdir()}
    assert names == {
        "ablation.svg",
        "digits.graphml",
        "digits.html",
        "digits.safetensors",
        "strongest_edges.csv",
    }


def test_the_pictures_are_there(ran):
    assert ran.page.stat().st_size < 8_000_000
    assert "The 1,500 edges of largest |contribution|" in ran.page.read_text(encoding="utf-8")
    assert ElementTree.parse(ran.plot).getroot().tag.endswith("svg")


def test_it_says_what_it_did(tmp_path, capsys):
    result = demo.run(tmp_path, epochs=1)
    said = capsys.readouterr()
    for text in (
        f"{result.accuracy:.1%} of 360 unseen images",
        "170 neurons, 6,464 edges",
        f"the largest difference is {result.difference:.3g}",
        "level 3: 360 images x 320 edges x 3",
        "digits.graphml",
        "digits.safetensors",
        "strongest_edges.csv",
        "Without the 24 hidden neurons of the highest gradient x value",
        "digits.html",
        "ablation.svg",
        str(tmp_path),
    ):
        assert text in said.out
    assert all(len(line) <= 100 for line in said.out.splitlines() if str(tmp_path) not in line)
    assert "training" in said.err


def test_the_same_network_every_time(tmp_path):
    first, second = (demo.run(tmp_path / name, epochs=1) for name in ("a", "b"))
    assert first.safetensors.read_bytes() == second.safetensors.read_bytes()


@pytest.mark.parametrize("epochs", [0, -3])
def test_refuses_no_epochs(epochs, tmp_path):
    with pytest.raises(graphnn.GraphError, match=rf"epochs must be at least 1 \(got {epochs}\)"):
        demo.run(tmp_path / "none", epochs=epochs)
    assert not (tmp_path / "none").exists()


def test_says_how_to_install_what_is_missing(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name in ("sklearn", "tqdm"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"needs scikit-learn and tqdm.*'graphnn\[demo\]'"):
        demo.run(tmp_path / "none")
    assert not (tmp_path / "none").exists()
