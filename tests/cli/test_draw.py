"""The command `graphnn draw`."""

import pytest

from graphnn.cli import main


@pytest.fixture
def edges(tmp_path):
    path = tmp_path / "edges.csv"
    path.write_text("source,target,weight\nx,h,2.0\nz,h,-1.0\nh,y,3.0\nx,y,-0.5\n")
    return path


def scene(path):
    return path.read_text(encoding="utf-8").split('id="scene">')[1].split("</script>")[0]


def test_it_writes_a_page(edges, tmp_path, capsys):
    out = tmp_path / "net.html"
    assert main(["draw", str(edges), "-o", str(out), "--max-edges", "3"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"wrote {out}: 3 of 4 edges")
    assert said.err == ""
    assert "The 3 edges of largest |weight|" in scene(out)


def test_samples_are_read_and_one_is_first(edges, tmp_path):
    out, samples = tmp_path / "net.html", tmp_path / "x.csv"
    samples.write_text("z,x\n1,5\n2,6\n3,7\n")
    arguments = ["draw", str(edges), "-o", str(out), "--input", str(samples), "--sample", "2"]
    arguments += ["--max-edges", "3"]
    assert main(arguments) == 0
    assert "(mean over 3 samples)" in scene(out)
    assert '"first": 2' in scene(out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "net.txt"], "the page's name must end in .html (got '.txt')"),
        (["-o", "net.html", "--max-edges", "-1"], "--max-edges must be an integer of at least 0"),
        (["-o", "net.html", "--sample", "1"], "--sample must be 0 where no trace is given"),
        (["-o", "net.html", "--input", "none.csv"], "none.csv"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(
    edges, tmp_path, capsys, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    assert main(["draw", str(edges), *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == [edges]
