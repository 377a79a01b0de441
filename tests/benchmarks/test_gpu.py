"""`python -m benchmarks.gpu` runs without a GPU where it is told to be quick; its tables."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_table, tables
from benchmarks.gpu_cases import cases
from benchmarks.gpu_clock import limits
from benchmarks.problem import FORWARD, TRAINING

ROOT = Path(__file__).parents[2]
REACHED = {"sgemm": 30.0, "l2": 6000.0, "dram": 4000.0, "l2_bytes": 5e7, "launch": 1e-6}


@pytest.mark.parametrize("family", ["deep", "scale"])
def test_a_quick_run_gives_a_table(tmp_path, family):
    pytest.importorskip("triton")
    output = tmp_path / "gpu.jsonl"
    command = [sys.executable, "-m", "benchmarks.gpu", "--quick", "--case", family]
    command += ["--budget", "0.001", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert not [line for line in lines if "skipped" in line]
    own = [line["mode"] for line in lines if line["contender"] == "graphnn"]
    assert own == (["build"] if family == "scale" else []) + [FORWARD, TRAINING] + (
        ["SGD step"] if family == "scale" else []
    )
    text = gpu_table.markdown(lines)
    assert f"**{family}.** {gpu_table.AIMS[family]}" in text
    assert text.count("SGD step") == (family == "scale")


def test_without_a_gpu_it_says_so():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    command = [sys.executable, "-m", "benchmarks.gpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert "needs a GPU; --quick runs without one" in done.stderr


def test_every_case_has_graphnn_first_and_an_aim():
    for quick in (True, False):
        for case in cases(quick):
            assert case.contenders[0].name == "graphnn"
            assert case.family in gpu_table.AIMS
    # With the scale, the triplets and the roofline, in eight minutes.
    assert sum(case.seconds for case in cases(False)) <= 390


def test_the_readme_says_that_nothing_is_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    assert tables.markdown() == f"### On a GPU\n\n{gpu_table.ABSENT}"


def test_limits():
    # 1e9 edges x samples gather 4e9 bytes: from the common cache where a tile of values fits it.
    size = {"edges": 1_000_000, "neurons": 3000, "levels": 4, "batch": 1000, "size": 4}
    t0, t1 = limits(REACHED, window=2000, mode=FORWARD, **size)
    assert t0 == pytest.approx(1e9 / 30e12)
    assert t1 == pytest.approx(4e9 / 6e12)
    assert limits(REACHED, window=10**6, mode=FORWARD, **size)[1] == pytest.approx(4e9 / 4e12)
    assert limits(REACHED, window=2000, mode=TRAINING, **size)[1] == pytest.approx(3 * t1)
    assert limits(REACHED, window=2000, mode=FORWARD, **{**size, "batch": 1})[0] == 3e-6
