"""Latency and throughput of the HTTP service under load.

tools/serve.py runs in a process of its own on the loopback address. Clients in threads send CamVid's validation images as PNG, each over
one connection, and compare every answer with the labels that tools/predict.py would write. The cases alternate in blocks of requests:

- ``1 client``: the next image is sent when the answer is there, one at a time.
- ``16 clients``: with micro-batches of up to 8 images, and of 1 image to see what batches bring.

Between the blocks, a flood of more requests than the queue holds checks that each is answered or rejected with status 429.
Needs SEGZOO_DATA and the extra ``serve``. About 4 minutes on two cores.
"""

from __future__ import annotations

import argparse
import http.client
import io
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

import segzoo
from benchmarks.harness.result_files import ROOT, write_result
from segzoo.data.image_io import read_image

BLOCKS = 5
CASES = {"1 client": (1, 8), "16 clients": (16, 8), "16 clients, no batches": (16, 1)}  # clients, max_batch


class Answer(NamedTuple):
    """Answer to a request: position of its image, status, body, seconds."""

    image: int
    status: int
    body: bytes
    seconds: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the checkpoint, and options that shorten the run."""
    parser.add_argument("--ckpt", required=True, help="a run on CamVid, such as runs/quick")
    parser.add_argument("--requests", type=int, default=500, help="per case; 500")
    parser.add_argument("--images", type=int, default=101, help="images to send; 101")
    parser.add_argument("--flood", type=int, default=200, help="requests at the same time between the blocks; 200")
    parser.add_argument(
        "--runtime", default="eager", help="runtime of the service; eager, whose labels are exactly those of predict"
    )


@contextmanager
def running_service(ckpt: str, runtime: str, max_batch: int) -> Iterator[int]:
    """Run tools/serve.py, and yield its port."""
    settings = [
        f"ckpt={Path(ckpt).resolve()}",
        f"runtime={runtime}",
        "port=0",
        "device=cpu",
        f"max_batch={max_batch}",
        "timeout_s=600",
    ]
    process = subprocess.Popen([sys.executable, "tools/serve.py", *settings], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield next(int(match[1]) for line in process.stdout if (match := re.search(r"serving at http://127\.0\.0\.1:(\d+)", line)))
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=600)


def send(port: int, uploads: list[bytes], images: list[int], clients: int) -> tuple[list[Answer], float]:
    """Send images from several clients.

    Args:
        port: port of the service.
        uploads: the files.
        images: positions of the files to send.
        clients: number of clients. Each sends its share, one after another.

    Returns:
        The answers in any order, and the seconds from the first request to the last answer.
    """
    answers: list[Answer] = []

    def run_client(own: list[int]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        for image in own:
            start = time.perf_counter()
            connection.request("POST", "/predict?output=labels", uploads[image])
            response = connection.getresponse()
            body = response.read()
            answers.append(Answer(image, response.status, body, time.perf_counter() - start))

    threads = [threading.Thread(target=run_client, args=(images[k::clients],)) for k in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers, time.perf_counter() - start


def batches(port: int) -> tuple[float, float]:
    """Read the numbers of images and of batches so far."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    return tuple(float(re.search(rf"^segzoo_batch_images_{key} (\S+)$", text, re.MULTILINE)[1]) for key in ("sum", "count"))  # type: ignore


def is_right(answer: Answer, labels: list[np.ndarray]) -> bool:
    """Compare an answer with the labels of its image."""
    return answer.status == 200 and np.array_equal(np.asarray(Image.open(io.BytesIO(answer.body))), labels[answer.image])


def summarize(
    case: str, answers: list[Answer], seconds: float, grouped: tuple[float, float], labels: list[np.ndarray]
) -> dict[str, Any]:
    """Summarize all answers of a case.

    Args:
        case: its name.
        answers: the answers.
        seconds: their blocks together.
        grouped: images, and the batches that they came in.
        labels: (H, W) class ids of each image.
    """
    milliseconds = sorted(1000 * answer.seconds for answer in answers)
    clients, max_batch = CASES[case]
    row: dict[str, Any] = {"case": case, "clients": clients, "max_batch": max_batch, "requests": len(answers)}
    row |= {"wrong": sum(not is_right(answer, labels) for answer in answers), "images_per_s": round(len(answers) / seconds, 3)}
    row["ms"] = {"p50": round(statistics.median(milliseconds), 1), "p99": round(milliseconds[int(0.99 * len(milliseconds))], 1)}
    return row | {"images_per_batch": round(grouped[0] / max(1, grouped[1]), 2)}


def main(args: argparse.Namespace) -> None:
    """Measure all cases, block by block."""
    paths = sorted((Path(os.environ.get("SEGZOO_DATA", "data")) / "camvid/val").iterdir())[: args.images]
    uploads, network = [path.read_bytes() for path in paths], segzoo.load(args.ckpt, device="cpu")
    network.fuse_for_inference_()  # type: ignore[operator]  # as tools/predict.py does
    labels = [network.predict(read_image(path)).labels for path in paths]
    order = [number % len(paths) for number in range(args.requests)]
    answers: dict[str, list[Answer]] = {case: [] for case in CASES}
    seconds, grouped = dict.fromkeys(CASES, 0.0), {case: (0.0, 0.0) for case in CASES}
    floods: Counter[int] = Counter()
    with running_service(args.ckpt, args.runtime, 8) as batching, running_service(args.ckpt, args.runtime, 1) as single:
        ports = {8: batching, 1: single}
        for port in ports.values():
            send(port, uploads, order[:2], 1)  # the first images take longer
        for block in range(BLOCKS):
            for case in list(CASES) if block % 2 == 0 else list(CASES)[::-1]:
                clients, max_batch = CASES[case]
                before = batches(ports[max_batch])
                found, taken = send(ports[max_batch], uploads, order[block::BLOCKS], clients)
                after = batches(ports[max_batch])
                answers[case] += found
                seconds[case] += taken
                grouped[case] = (grouped[case][0] + after[0] - before[0], grouped[case][1] + after[1] - before[1])
            flood = send(batching, uploads, [order[k % len(order)] for k in range(args.flood)], args.flood)[0]
            floods.update(answer.status if answer.status != 200 or is_right(answer, labels) else 0 for answer in flood)
    rows = [summarize(case, answers[case], seconds[case], grouped[case], labels) for case in CASES]
    rows.append(
        {
            "case": "flood",
            "clients": args.flood,
            "requests": BLOCKS * args.flood,
            "statuses": {str(k): n for k, n in floods.items()},
        }
    )
    for row in rows:
        print(row)
    print(write_result("service_360x480", args.command, {"runtime": args.runtime, "cases": rows}, packages=("fastapi", "uvicorn")))
