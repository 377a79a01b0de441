"""`python -m benchmarks` runs from the problem to the plots, and refuses what is wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments):
    command = [sys.executable, "-m", "benchmarks", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ladder")
    size = ["--quick", "--threads", 1, "--budget", 0.01]
    cases = ["--case", "mlp: 30-64-64-10, 10%", "scale: 4"]
    contenders = ["--contender", "graphnn", "masked Linear", "torch-scatter"]
    done = run(*size, *cases, *contenders, "--output", folder / "run.jsonl")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def lines(folder):
    return [json.loads(line) for line in (folder / "run.jsonl").read_text().splitlines()]


def test_every_row_is_there_once(lines):
    assert [(line["family"], line["mode"], line["threads"], line["batch"]) for line in lines] == [
        ("mlp", "forward + backward", 1, 8),
        ("scale", "forward", 1, 32),
        ("scale", "forward + backward", 1, 32),
    ]


def test_contenders_are_checked_and_measured(lines):
    mlp = lines[0]["contenders"]
    assert {"graphnn", "masked Linear"} <= set(mlp), lines[0]["skipped"]
    for found in mlp.values():
        assert 0 <= found["error"] <= 1e-4
        low, median, high = found["seconds_20_50_80"]
        assert 0 < low <= median <= high
        assert found["rounds"] >= 3


def test_a_rate_counts_three_products_for_an_edge_and_sample(lines):
    line = lines[0]
    found = line["contenders"]["graphnn"]
    products = 3 * line["edges"] * line["batch"]
    assert found["rate"] * 1e9 == pytest.approx(products / found["seconds_20_50_80"][1], rel=1e-3)


def test_a_contender_is_never_left_out_in_silence(lines):
    line = lines[0]
    names = {"graphnn", "masked Linear", "torch-scatter"}
    assert names <= set(line["contenders"]) | set(line["skipped"])


def test_the_limits_follow_the_constants(lines):
    for line in lines:
        physical, unstructured = line["t0_t1_seconds"]
        assert 0 < physical <= unstructured
        passes = 1 if line["mode"] == "forward" else 3
        products = passes * line["edges"] * line["batch"]
        assert physical >= 0.999 * products / (1e9 * line["roofline"]["sgemm"])
        found = line["contenders"]["graphnn"]
        assert found["of_t1"] == pytest.approx(
            unstructured / found["seconds_20_50_80"][1], rel=0.01
        )


def test_a_table_and_plots_stand_beside_the_lines(folder):
    table = (folder / "run.md").read_text()
    assert "| 30-64-64-10, 10% of the edges | 8 | + backward | 1 |" in table
    for family in ("mlp", "scale"):
        drawn = (folder / f"ladder-{family}.svg").read_text()
        assert "graphnn" in drawn
        assert "edges x samples a second" in drawn


def test_an_unknown_contender_is_named():
    done = run("--contender", "grafnn")
    assert done.returncode == 2
    assert "'grafnn'" in done.stderr


def test_an_unknown_revision_is_named():
    done = run("--threads", 1, "--base", "no-such-revision", "--case", "none of them")
    assert done.returncode != 0
    assert "no-such-revision" in done.stderr


def test_every_case_of_the_ladder_is_listed():
    done = run("--list")
    families = [line.partition(":")[0] for line in done.stdout.splitlines() if line[0] != " "]
    assert list(dict.fromkeys(families)) == [
        "mlp", "wide", "dense", "deep", "small", "challenge", "random dag", "batch", "scale",
    ]  # fmt: skip
