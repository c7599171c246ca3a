"""Files are written whole, as valid JSON, and never through a link."""

from __future__ import annotations

import errno
import json
import os
import zlib

import numpy as np
import pytest

from segzoo.data.image_io import read_header, read_image
from segzoo.io import write_atomically, write_json
from segzoo.system_errors import system_error_text
from segzoo.types import DataError


def test_numbers_that_json_lacks_become_null(tmp_path):
    content = {"loss": float("nan"), "interval": [float("-inf"), 0.5], "deep": ({"x": float("inf")},), "count": 3, "text": "NaN"}
    write_json(tmp_path / "scores.json", content)
    expected = {"loss": None, "interval": [None, 0.5], "deep": [{"x": None}], "count": 3, "text": "NaN"}
    assert json.loads((tmp_path / "scores.json").read_text(), parse_constant=pytest.fail) == expected
    write_json(tmp_path / "scores.json", np.float64("nan"))
    assert (tmp_path / "scores.json").read_text() == "null\n"


def test_file_names_that_are_not_utf8_are_kept(tmp_path):
    name = os.fsdecode(b"caf\xe9 \xc3\xa9.png")
    write_json(tmp_path / "names.json", {"imagePath": name})
    assert json.loads((tmp_path / "names.json").read_text()) == {"imagePath": name} and "é" in (tmp_path / "names.json").read_text()


@pytest.mark.parametrize("durable", [True, False])
def test_a_link_in_place_of_the_temporary_file_is_replaced(tmp_path, durable):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / f"{zlib.crc32(b'file'):08x}.tmp.{os.getpid()}").symlink_to(victim)
    write_atomically(tmp_path / "file", lambda file: file.write(b"new"), durable=durable)
    assert victim.read_text() == "precious" and (tmp_path / "file").read_text() == "new"
    assert {path.name for path in tmp_path.iterdir()} == {"victim", "file"}


def test_the_longest_file_name_can_be_written(tmp_path):
    for name in ("n" * 251 + ".png", "背" * 83 + ".png"):
        write_atomically(tmp_path / name, lambda file: file.write(b"new"))
        assert [path.name for path in tmp_path.iterdir()] == [name]
        (tmp_path / name).unlink()


def test_a_disk_error_names_the_file_and_what_to_do(tmp_path):
    def write(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space") as caught:
        write_atomically(tmp_path / "scores.json", write)
    assert not list(tmp_path.iterdir())
    text = system_error_text(caught.value)
    assert text and text.startswith(
        f"{tmp_path / 'scores.json'}: no space left on device. Free space there, or set another folder."
    )
    assert system_error_text(FileNotFoundError(errno.ENOENT, "No such file")) is None  # a bug


def test_other_errors_keep_their_words(tmp_path):
    def write(file):
        raise OSError("cannot write mode F as PNG")

    with pytest.raises(OSError, match="^cannot write mode F as PNG$"):
        write_atomically(tmp_path / "a.png", write)


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a.png: cannot be read: it is a pipe or a device, not a file"):
        read_image(tmp_path / "a.png")
    with pytest.raises(DataError, match="it is a pipe or a device"):
        read_header(tmp_path / "a.png")
