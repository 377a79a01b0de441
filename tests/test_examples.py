"""Every file of examples/ runs, and what it asserts holds."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


def test_the_examples_are_found():
    names = {path.stem for path in EXAMPLES}
    assert names >= {"skip_connections", "three_layers", "two_inputs_two_outputs", "wired_outputs"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_runs_and_tells_what_it_did(path, capsys):
    runpy.run_path(str(path), run_name="__main__")
    assert len(capsys.readouterr().out.splitlines()) >= 2
