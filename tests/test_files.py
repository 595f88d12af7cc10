"""The promises of the file writer: the new file whole, or the old one untouched."""

from pathlib import Path

import pytest
from mlx_nanogpt.files import cache_dir, replacing


def test_a_replaced_file_is_the_new_one_and_nothing_else_is_left():
    Path("note").write_text("old")
    with replacing(Path("note")) as file:
        file.write(b"new")
        assert Path("note").read_text() == "old"
    assert Path("note").read_text() == "new"
    assert not [each for each in Path().iterdir() if each.name.startswith(".")]


def test_a_failure_leaves_the_old_file_and_nothing_else():
    Path("note").write_text("old")
    with pytest.raises(RuntimeError), replacing(Path("note")) as file:
        file.write(b"half")
        raise RuntimeError
    assert Path("note").read_text() == "old"
    assert not [each for each in Path().iterdir() if each.name.startswith(".")]


def test_the_cache_is_where_the_desktop_wants_it_and_by_default_in_the_home(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert cache_dir() == tmp_path / "elsewhere" / "mlx-nanogpt"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == tmp_path / "home" / ".cache" / "mlx-nanogpt"
