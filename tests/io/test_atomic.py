"""Files that appear whole or not at all."""

import os
import stat

import pytest

from graphnn.io.atomic import replacing


def test_the_target_appears_at_the_end_and_alone(tmp_path):
    target = tmp_path / "a.txt"
    with replacing(target) as temporary:
        assert temporary.parent == tmp_path
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    target = tmp_path / "a.txt"
    target.write_text("old")

    def interrupted():
        with replacing(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_an_error_before_anything_is_written(tmp_path):
    with pytest.raises(RuntimeError), replacing(str(tmp_path / "a.txt")):
        raise RuntimeError
    assert os.listdir(tmp_path) == []


def test_permissions_are_those_of_any_new_file_or_of_the_old_one(tmp_path):
    plain, target = tmp_path / "plain", tmp_path / "a.txt"
    plain.write_text("")
    for mode in (plain.stat().st_mode, stat.S_IFREG | 0o640):
        with replacing(target) as temporary:
            temporary.write_text("new")
        assert target.stat().st_mode == mode
        target.chmod(0o640)


def test_a_link_is_followed(tmp_path):
    target, link = tmp_path / "real", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    with replacing(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_a_long_name_is_no_trouble(tmp_path):
    target = tmp_path / ("n" * 255)
    with replacing(target) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "new"


def test_targets_that_cannot_be(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"), replacing(tmp_path / "missing" / "a"):
        pass
    with pytest.raises(IsADirectoryError), replacing(tmp_path):
        pass
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"), replacing(tmp_path / "pipe"):
        pass
