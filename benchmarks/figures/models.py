"""One figure for each model, from the layers of its authors' release."""

from __future__ import annotations

from benchmarks.figures.drawing import SIDE, Box, Figure, MapRow

WIDTH = 880


def fcn() -> str:
    """Draw FCN-8s: scores of three depths are upsampled and added."""
    figure, y, below = Figure("FCN-8s: scores from three depths of VGG16", WIDTH, 310), 105, 238
    image = figure.map(50, y, 1, "image", "image", width=60)
    pools = [
        figure.map(x, y, stride, "conv", f"pool{number}", f"1/{stride}, {channels} ch.")
        for number, (x, stride, channels) in enumerate(
            ((155, 2, 64), (245, 4, 128), (345, 8, 256), (475, 16, 512), (590, 32, 512)), 1
        )
    ]
    layers = [figure.map(x, y, 32, "conv", name, "1/32, 4096 ch.") for x, name in ((695, "fc6 7×7"), (800, "fc7 1×1"))]
    figure.chain([image, *pools, *layers])
    coarse = figure.map(800, below, 32, "score", "", "scores 1/32")
    figure.arrow((800, layers[1].bottom[1] + 20), coarse.top, label="1×1")
    sums = [figure.sum(x, below) for x in (475, 345)]
    middle = figure.map(425, below, 16, "score", "", "1/16")
    fine = figure.map(295, below, 8, "score", "", "1/8")
    labels = figure.map(50, below, 1, "score", width=60)
    figure.text(90, below + 44, "labels", "name", "start")
    for pool, added in ((pools[3], sums[0]), (pools[2], sums[1])):
        figure.arrow((pool.x, pool.bottom[1] + 20), added.top, label="1×1")
    figure.arrow(coarse.left, sums[0].right, label="upsampled ×2")
    figure.arrow(sums[0].left, middle.right)
    figure.arrow(middle.left, sums[1].right, label="×2")
    figure.arrow(sums[1].left, fine.right)
    figure.arrow(fine.left, labels.right, label="upsampled ×8")
    return figure.svg()


def deeplab_largefov() -> str:
    """Draw DeepLab-LargeFOV: dilation keeps the resolution, and a CRF follows."""
    figure, y = Figure("DeepLab-LargeFOV: VGG16 at 1/8 with dilated convolutions", WIDTH, 345), 105
    boxes = _dilated_vgg(figure, y)
    boxes += [figure.map(575, y, 8, "conv", "fc7 1×1", "1/8, 1024 ch."), figure.map(660, y, 8, "score", "", "scores 1/8")]
    crf = figure.box(760, y, 44, 44, "context", "CRF", "at test time")
    labels = figure.map(835, y, 1, "score", "labels", width=60)
    figure.chain(boxes)
    figure.arrow(boxes[-1].right, crf.left, label="×8")
    figure.arrow(crf.right, labels.left)
    for x, rate, where in ((170, 1, "conv1 to conv4"), (370, 2, "conv5"), (570, 12, "fc6")):
        window = Box(x, 250, 125, 125)
        spots = [(12 + rate * row, 12 + rate * column) for row in (-1, 0, 1) for column in (-1, 0, 1)]
        figure.grid(window, 25, spots, "conv" if rate == 1 else "dilated")
        figure.text(x, 329, f"{where}: 3×3, dilation {rate}")
    for number, line in enumerate(("nine weights each;", "fc6 sees 224×224 of the image,", "as the paper counts it")):
        figure.text(655, 240 + 15 * number, line, anchor="start")
    return figure.svg()


def parsenet() -> str:
    """Draw ParseNet: a normalized global feature joins the local ones."""
    figure, y = Figure("ParseNet: one feature of the whole image", WIDTH, 270), 145
    boxes = _dilated_vgg(figure, y)
    boxes.append(figure.map(555, y, 8, "conv", "fc7", "1024 ch."))
    figure.chain(boxes)
    features = boxes[-1]
    local = figure.map(660, 95, 8, "context", "L2 norm")
    pooled = figure.box(590, 215, 10, 10, "context")
    figure.text(578, 219, "average", anchor="end")
    wide = figure.map(705, 215, 8, "context")
    joined = figure.box(745, y, 20, SIDE[8], "context")
    scores = figure.map(790, y, 8, "score", "", "1×1")
    labels = figure.map(842, y, 1, "score", "labels", width=44)
    figure.arrow(features.right, (590, y), (590, 95), local.left)
    figure.arrow((590, y), pooled.top)
    figure.arrow(pooled.right, wide.left, label="L2 norm, repeat")
    figure.arrow(local.right, (joined.x, 95), joined.top)
    figure.arrow(wide.right, (joined.x, 215), joined.bottom)
    figure.arrow(joined.right, scores.left)
    figure.arrow(scores.right, labels.left, label="×8")
    figure.text(joined.x + 8, 112, "concat", anchor="start")
    return figure.svg()


def _dilated_vgg(figure: Figure, y: float) -> list[Box]:
    """Draw VGG16 up to fc6, without strides after pool3."""
    boxes = [figure.map(50, y, 1, "image", "image", width=60)]
    rows: list[MapRow] = [
        (125, 2, "conv", "", "1/2"),
        (180, 4, "conv", "", "1/4"),
        (240, 8, "conv", "pool3", "1/8"),
        (315, 8, "conv", "conv4", "1/8"),
        (390, 8, "dilated", "conv5", "dilation 2"),
        (475, 8, "dilated", "fc6", "dilation 12"),
    ]
    boxes += figure.maps(y, rows)
    return boxes


def pspnet() -> str:
    """Draw PSPNet: averages of the last feature map over four grids."""
    figure, y = Figure("PSPNet: a pyramid of averages over the whole image", WIDTH, 330), 180
    boxes = [figure.map(50, y, 1, "image", "image", width=60)]
    rows: list[MapRow] = [
        (125, 2, "conv", "conv1", "1/2"),
        (180, 4, "conv", "conv2", "1/4"),
        (235, 8, "conv", "conv3", "1/8"),
        (295, 8, "dilated", "conv4", "dilation 2"),
        (370, 8, "dilated", "conv5", "dilation 4"),
    ]
    boxes += figure.maps(y, rows)
    figure.chain(boxes)
    features = boxes[-1]
    figure.arrow((295, features.bottom[1] + 20), (295, 262), dashed=True)
    figure.text(295, 278, "auxiliary loss ×0.4,")
    figure.text(295, 292, "training only")
    joined = figure.box(655, y, 16, 200, "context")
    figure.text(655, 302, "concat")
    for number, bins in enumerate((1, 2, 3, 6)):
        row = 92 + 52 * number
        cells = figure.box(465, row, 36, 36, "context")
        figure.grid(cells, bins, kind="context")
        upsampled = figure.box(590, row, 12, 36, "context")
        figure.arrow(features.right, (415, y), (415, row), cells.left)
        figure.arrow(cells.right, upsampled.left, label="1×1, upsample")
        figure.arrow(upsampled.right, (647, row))
    figure.text(465, 290, "1, 4, 9 and 36")
    figure.text(465, 304, "averages")
    figure.arrow(features.right, (415, y), (415, 54), (655, 54), joined.top)
    mixed = figure.map(715, y, 8, "conv", "3×3", "512 ch.")
    scores = figure.map(770, y, 8, "score", "", "1/8")
    labels = figure.map(836, y, 1, "score", "labels", width=50)
    figure.chain([joined, mixed, scores])
    figure.arrow(scores.right, labels.left, label="×8")
    return figure.svg()


def icnet() -> str:
    """Draw ICNet: three resolutions, of which only the lowest sees all layers."""
    figure = Figure("ICNet: a cascade of three resolutions", WIDTH, 400)
    high, half, low = 100, 215, 325
    image = figure.map(50, high, 1, "image", "image", width=60)
    small = figure.map(50, half, 2, "image", "", "image 1/2", width=48)
    figure.arrow(image.bottom, small.top)
    branch = [figure.map(x, high, stride, "conv", "", f"1/{stride}") for x, stride in ((140, 2), (205, 4), (265, 8))]
    shared = [
        figure.map(x, half, stride, "conv", name, f"1/{stride}")
        for x, stride, name in ((140, 4, "conv1"), (205, 8, "conv2"), (265, 16, "conv3_1"))
    ]
    figure.chain([image, *branch])
    figure.chain([small, *shared])
    rows: list[MapRow] = [
        (265, 32, "conv", "conv3", "1/32"),
        (330, 32, "dilated", "conv4", "dilation 2"),
        (405, 32, "dilated", "conv5", "dilation 4"),
        (480, 32, "context", "pyramid", "sum of averages"),
    ]
    deep = figure.maps(low, rows)
    figure.arrow((265, shared[-1].bottom[1] + 20), (265, deep[0].top[1] - 20), label="÷2")
    figure.chain(deep)
    sums = [figure.sum(560, half), figure.sum(665, high)]
    figure.arrow(deep[-1].right, (560, low), sums[0].bottom, label="×2, 3×3 dilation 2")
    figure.arrow(shared[-1].right, sums[0].left, label="1×1")
    figure.arrow(branch[-1].right, sums[1].left, label="1×1")
    middle = figure.map(605, half, 16, "conv", "", "1/16")
    figure.arrow(sums[0].right, middle.left)
    figure.arrow(middle.right, (665, half), sums[1].bottom, label="×2, 3×3 dilation 2")
    fine = figure.map(705, high, 8, "conv", "", "1/8")
    scores = figure.map(765, high, 4, "score", "", "scores 1/4")
    labels = figure.map(838, high, 1, "score", "labels", width=50)
    figure.arrow(sums[1].right, fine.left)
    figure.arrow(fine.right, scores.left, label="×2")
    figure.arrow(scores.right, labels.left, label="×4")
    for x, start, weight in ((560, (560, low), "0.16 at 1/16"), (665, (665, half), "0.4 at 1/8"), (765, (765, 152), "1 at 1/4")):
        figure.arrow(start, (x, 362), dashed=True)
        figure.text(x, 378, f"loss ×{weight}")
    figure.text(50, 378, "dashed: training only", anchor="start")
    return figure.svg()


NETWORKS = {make.__name__: make for make in (fcn, deeplab_largefov, parsenet, pspnet, icnet)}
