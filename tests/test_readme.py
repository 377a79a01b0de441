"""What the README shows runs, and what it points at exists."""

import re
import runpy
import shlex
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch

from graphnn.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
SVG = "{http://www.w3.org/2000/svg}"


def blocks(language):
    """Code of that language, called after the heading above it."""
    found = []
    for match in FENCE.finditer(README):
        if match[1] == language:
            heading = re.findall(r"^## (.+)$", README[: match.start()], re.M)[-1]
            found.append(pytest.param(match[2], id=heading))
    return found


def commands():
    lines = [line for block in blocks("console") for line in block.values[0].splitlines()]
    assert all(line.startswith("$ ") for line in lines)
    return [line[2:] for line in lines]


def test_the_readme_has_both_kinds_of_blocks():
    assert len(blocks("python")) >= 6
    assert len(commands()) >= 6


@pytest.mark.parametrize("code", blocks("python"))
def test_python_block_runs(code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng(devices=[]):
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


@pytest.mark.parametrize("code", blocks("python"))
def test_python_block_is_short(code):
    assert len([line for line in code.splitlines() if line.strip()]) <= 15


@pytest.mark.parametrize("command", commands())
def test_console_command_exists(command, capsys):
    program, *arguments = shlex.split(command)
    if program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert re.search(rf"^{arguments[0]}:", makefile, re.M)
    elif program == "graphnn":
        # argparse looks at the arguments before the one that asks for help.
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--help"])
        assert ended.value.code == 0
        assert f"graphnn {arguments[0]}" in capsys.readouterr().out
    else:
        assert program == "pip"
        for name in ("-c", "-e"):
            if name in arguments:
                place = arguments[arguments.index(name) + 1].split("[")[0]
                assert (ROOT / place).exists()


def test_links_lead_to_files():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert len(links) >= 6
    for link in links:
        assert (ROOT / link).exists(), link


def test_every_example_is_pointed_at():
    for path in (ROOT / "examples").glob("*.py"):
        assert f"(examples/{path.name})" in README


def test_the_picture_is_drawn_by_its_script(tmp_path, monkeypatch, capsys):
    drawn = tmp_path / "network.svg"
    monkeypatch.setattr(sys, "argv", ["draw_network.py", str(drawn)])
    runpy.run_path(str(ROOT / "docs" / "draw_network.py"), run_name="__main__")
    new, kept = (ET.parse(path).getroot() for path in (drawn, ROOT / "docs" / "network.svg"))
    for shape in ("circle", "path", "text"):
        assert len(new.findall(f".//{SVG}{shape}")) == len(kept.findall(f".//{SVG}{shape}")) > 0
