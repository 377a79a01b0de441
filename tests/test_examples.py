"""Every file of examples/ runs, and what it asserts holds."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


@pytest.fixture(autouse=True)
def _own_threads():
    """An example may choose its number of threads; the tests after it keep theirs."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_the_examples_are_found():
    names = {path.stem for path in EXAMPLES}
    assert names >= {"skip_connections", "three_layers", "two_inputs_two_outputs", "wired_outputs"}
    assert names >= {"connectome", "evolve_xor", "networks_as_data", "reactome"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_runs_and_tells_what_it_did(path, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(path)])
    runpy.run_path(str(path), run_name="__main__")
    assert len(capsys.readouterr().out.splitlines()) >= 2


def test_the_hierarchy_may_come_from_a_file(tmp_path, capsys, monkeypatch):
    # As in Reactome: several roots, pathways with two parents, edges that skip levels.
    rows = [("T1", "A"), ("T1", "B"), ("T2", "B"), ("T2", "C"), ("T3", "L0")]
    rows += [(parent, f"{parent}{i}") for parent in "ABC" for i in range(4)]
    rows += [(f"B{i}", f"B{i}{j}") for i in range(3) for j in range(2)] + [("A1", "B21")]
    path = tmp_path / "relation.txt"
    path.write_text("".join(f"{parent}\t{child}\n" for parent, child in rows))
    example = next(path for path in EXAMPLES if path.stem == "reactome")
    monkeypatch.setattr(sys, "argv", [str(example), str(path)])
    runpy.run_path(str(example), run_name="__main__")
    said = capsys.readouterr().out
    assert "25 pathways, 24 edges" in said
    assert "the cause is B," in said
    assert "B -> T1 (from the cause)" in said or "B -> T2 (from the cause)" in said


def test_the_connectome_may_come_from_a_file(tmp_path, capsys, monkeypatch):
    # Chains from left and right to a muscle, with one weak way back.
    rows = [("source", "target", "synapses"), ("m", "i0", "1"), ("i0", "i0", "2")]
    rows += [(f"s{i}", f"i{i % 4}", str(3 + i)) for i in range(8)]
    rows += [(f"i{i}", "m", "9") for i in range(4)]
    path = tmp_path / "edges.csv"
    path.write_text("".join(",".join(row) + "\n" for row in rows))
    example = next(path for path in EXAMPLES if path.stem == "connectome")
    monkeypatch.setattr(sys, "argv", [str(example), str(path)])
    runpy.run_path(str(example), run_name="__main__")
    said = capsys.readouterr().out
    assert "13 neurons, 14 connections" in said
    assert "2 connections with" in said
    assert "13 neurons, 12 edges, 3 levels" in said
