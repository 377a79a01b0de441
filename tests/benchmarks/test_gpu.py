"""`python -m benchmarks.gpu` runs without a GPU where it is told to be quick; its tables."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, gpu_table, networks, tables
from benchmarks.contenders.messages import EagerScatter
from benchmarks.gpu_cases import Case, cases
from benchmarks.gpu_clock import Clock, limits
from benchmarks.gpu_contenders import Kind
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


def test_every_way_to_launch_is_timed(tmp_path):
    pytest.importorskip("triton")
    output = tmp_path / "choice.jsonl"
    command = [sys.executable, "-m", "benchmarks.gpu_choice", "--quick", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = {}
    for line in map(json.loads, output.read_text().splitlines()):
        assert line["microseconds"] > 0
        ways = found.setdefault((line["case"], line["batch"], line["mode"]), {})
        ways[line["way"]] = line["is_chosen"]
    assert len(found) == 4
    for ways in found.values():
        assert len(ways) == 11
        assert sum(ways.values()) == 1


@pytest.mark.parametrize("name", ["gpu", "gpu_choice"])
def test_without_a_gpu_it_says_so(name):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    command = [sys.executable, "-m", f"benchmarks.{name}"]
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


class Broken(EagerScatter):
    def forward(self, x):
        raise KeyError("no such thing")


class BrokenBackward(EagerScatter):
    def gradients(self, x, seed):
        raise torch.OutOfMemoryError("tried to allocate too much\nand more")


def measured(make, end=math.inf, contenders=(Broken, BrokenBackward, EagerScatter)):
    """(contender, mode, why it was skipped) of every line of a tiny case."""
    kinds = tuple(Kind(own.__name__, own) for own in contenders)
    case = Case("deep", "tiny", make, (FORWARD, TRAINING), kinds)
    device = torch.device("cpu")
    lines = gpu.measure(case, device, Clock(device), REACHED, 0.001, end)
    return [(line["contender"], line["mode"], line.get("skipped")) for line in lines]


def test_a_contender_that_fails_leaves_the_others():
    assert measured(lambda: networks.by_fan_in([4, 4, 4], 2, 3)) == [
        ("Broken", FORWARD, "KeyError: 'no such thing'"),
        ("Broken", TRAINING, "KeyError: 'no such thing'"),
        ("BrokenBackward", FORWARD, None),
        ("BrokenBackward", TRAINING, "OutOfMemoryError: tried to allocate too much"),
        ("EagerScatter", FORWARD, None),
        ("EagerScatter", TRAINING, None),
    ]


def test_a_case_that_fails_is_tried_once():
    made = []

    def make():
        made.append(1)
        raise MemoryError("too large")

    lines = measured(make)
    assert {why for *_, why in lines} == {"MemoryError: too large"}
    assert len(lines) == 6
    assert made == [1]


def test_no_case_is_begun_when_the_time_is_up():
    lines = measured(lambda: pytest.fail("it was begun"), end=0.0)
    assert {why for *_, why in lines} == {"no time was left: the case has 40 s"}


def test_a_family_that_breaks_off_keeps_its_lines(tmp_path, capsys):
    def lines():
        yield {"family": "scale", "case": "tiny", "seconds_20_50_80": [1, 2, 3]}
        raise RuntimeError("CUDA error: an illegal memory access\nand more")

    output = tmp_path / "gpu.jsonl"
    gpu.Run({"device": "cpu"}, REACHED, output).add("scale", lines())
    found = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["case"] for line in found] == ["tiny", "all"]
    assert found[1]["skipped"] == "RuntimeError: CUDA error: an illegal memory access"
    assert {line["device"] for line in found} == {"cpu"}


def test_long_calls_are_made_a_few_times():
    calls = []

    class Long(Clock):
        def seconds(self, run):
            run()
            return 8.0

    assert Long(torch.device("cpu")).rounds(lambda: calls.append(1), 0.5) == [8.0]
    assert len(calls) == 2


def test_the_versions_that_a_gpu_needs_are_kept(monkeypatch):
    pytest.importorskip("triton")
    told = subprocess.CompletedProcess([], 0, stdout="580.159.04\n")
    monkeypatch.setattr(gpu.subprocess, "run", lambda *_, **__: told)
    assert set(gpu.gpu_versions(torch.device("cpu"))) == {"triton"}
    found = gpu.gpu_versions(torch.device("cuda"))
    assert found["driver"] == "580.159.04"
    assert set(found) == {"triton", "CUDA", "driver"}
