"""Two ranks that share the images of a prediction."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from predictions import predict_source
from ranks import run_ranks
from toy_training import INFO, Toy

from segzoo.config.checks.prediction import rank_errors
from segzoo.io import remove_stale_temp_files
from segzoo.types import DataError

SCRIPT = """
import json, os, sys
from datetime import timedelta
from pathlib import Path
import torch
from predictions import predict_source
from segzoo.distributed import init_distributed
from segzoo.types import DataError
from toy_training import INFO, Toy

class Dying(Toy):
    seen = 0

    def forward(self, x):
        self.seen += 1
        if self.seen == {dies_at} and dist.rank == 1:
            os._exit(9)
        return super().forward(x)

torch.set_num_threads(1)
torch.manual_seed(0)
with init_distributed("cpu", timedelta(minutes=1)) as dist:
    try:
        options = dict(distributed=dist, overlays="none", polygons="coco", fail_if={{"road": "50%"}})
        print(json.dumps(predict_source(Dying(), INFO, Path({out!r}), {source!r}, resumed={resumed}, **options)))
    except DataError as error:
        print(json.dumps({{"error": str(error)}}))
"""


def predict_on_two_ranks(source: Path, out: Path, resumed: bool = False, dies_at: int = 0, codes=(0, 0)) -> list[dict]:
    code = SCRIPT.format(source=str(source), out=str(out), resumed=resumed, dies_at=dies_at)
    outputs = run_ranks(code, codes=codes)
    return [json.loads(output.splitlines()[-1]) for output in outputs] if codes == (0, 0) else []


@pytest.fixture
def images(tmp_path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(7):
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).save(folder / f"{number}.png")
    return folder


def predict_in_one_process(source: Path, out: Path, resumed: bool = False) -> dict:
    torch.manual_seed(0)
    return predict_source(Toy(), INFO, out, source, resumed=resumed, overlays="none", polygons="coco", fail_if={"road": "50%"})


def contents(out: Path) -> dict[str, object]:
    """Files of a prediction, its table without times."""
    files: dict[str, object] = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    files["images.csv"] = [line.split(",")[:4] + line.split(",")[5:] for line in (out / "images.csv").read_text().splitlines()]
    return files


@pytest.mark.integration
def test_two_ranks_write_the_files_of_one_process(images, tmp_path):
    one = predict_in_one_process(images, tmp_path / "one")
    main, other = predict_on_two_ranks(images, tmp_path / "two")
    assert other == {} and contents(tmp_path / "two") == contents(tmp_path / "one")
    assert (main["images"], main["failed"], len(main["sentences"])) == (7, one["failed"], 7)
    assert [line.split(":")[0] for line in main["sentences"]] == list("0123456")
    assert sum(main["time_shares"].values()) == pytest.approx(1, abs=0.001)


@pytest.mark.integration
def test_errors_of_two_ranks_are_one_message(images, tmp_path):
    for name in ("1.png", "2.png"):  # of rank 1 and of rank 0
        (images / name).write_bytes(b"no image")
    main, other = predict_on_two_ranks(images, tmp_path / "two")
    with pytest.raises(DataError) as raised:
        predict_in_one_process(images, tmp_path / "one")
    assert other == {} and main["error"] == str(raised.value)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


@pytest.mark.crash
def test_a_rank_that_dies_fails_the_others_and_the_rest_is_done_later(images, tmp_path):
    predict_on_two_ranks(images, tmp_path / "two", dies_at=2, codes=(1, 9))
    labels = list((tmp_path / "two/labels").glob("*.png"))
    assert 4 <= len(labels) <= 5  # those of rank 0, and perhaps the first one of rank 1
    remove_stale_temp_files(tmp_path / "two")  # as tools/predict.py does when it opens a directory
    main, _ = predict_on_two_ranks(images, tmp_path / "two", resumed=True)
    assert main["images"] == 7 and main["done_before"] >= 4
    predict_in_one_process(images, tmp_path / "one")
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


@pytest.mark.integration
def test_rows_of_killed_ranks_are_kept_by_one_process(images, tmp_path):
    predict_in_one_process(images, tmp_path / "one")
    expected, table = contents(tmp_path / "one"), tmp_path / "one/images.csv"
    header, *rows = table.read_text().splitlines(keepends=True)
    table.write_text("".join([header, *rows[::2]]))
    (tmp_path / "one/images.rank1.csv").write_text("".join([header, *rows[1::2]]))
    assert predict_in_one_process(images, tmp_path / "one", resumed=True)["done_before"] == 7
    assert contents(tmp_path / "one") == expected


def test_streams_are_refused_under_torchrun(monkeypatch, tmp_path):
    assert rank_errors("rtsp://camera") == rank_errors(0) == []
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert rank_errors(str(tmp_path)) == []
    for source, name in (("rtsp://me:secret@camera/1", "stream"), (0, "camera"), ("-", "standard input")):
        (error,) = rank_errors(source)
        assert name in error and "python tools/predict.py" in error and "secret" not in error
