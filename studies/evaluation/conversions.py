"""What a resize, a precision, a conversion to bytes or JPEG changes, of the same photographs.

    python -m studies.evaluation.conversions --photographs photographs --out samples/conversions

Of 360 photographs of 64 x 64 pixels (30 of each class) EfficientNet-Lite0's features are computed
in two ways. The table has the Frechet distance between the two, and how much the second way moves
the distance from 360 other photographs, whose features are computed in the first way.

Writes conversions.json to OUT. 5,000 images: 3 minutes of one CPU core.
docs/evaluation.md shows the table, and says where the photographs are from.
"""

import numpy as np

from jaxdiff import cli, files

COUNT, SIZE, LARGE = 360, 64, 200
COLUMNS = (
    ("what differs", ""),
    ("instead of", ""),
    ("FD between the two", ".2f"),
    ("FD to others", ".2f"),
    ("moves by", "+.2f"),
)
FRONT_ENDS = {
    "tf1_bilinear": "TF1 bilinear",
    "torch_bilinear": "torch bilinear, not antialiased",
    "torch_bicubic": "torch bicubic (a = -.75), not antialiased",
    "pil_bicubic_uint8": "PIL bicubic of bytes, rounded",
}
OWN = ("conversions.json",)


class Lite0:
    """EfficientNet-Lite0 behind any resize, in float32 or bfloat16."""

    def __init__(self):
        from jaxdiff.evaluation import weights
        from jaxdiff.evaluation.networks.efficientnet import LITE0
        from studies.evaluation.features import NETWORK

        tensors, self.digest, _ = weights.read(NETWORK, LITE0.shapes)
        self.network, self.params = LITE0, LITE0.params(tensors)

    def __call__(self, images, resize="torch_bicubic_antialias", dtype="float32", batch=36):
        """Features [N, 1280] float32 of images [N, H, W, C]."""
        import dataclasses

        import jax

        from jaxdiff.evaluation.front_ends import EFFICIENTNET_LITE, RESIZES

        front_end = dataclasses.replace(EFFICIENTNET_LITE[0], resize=RESIZES[resize])
        params = {name: array.astype(dtype) for name, array in self.params.items()}

        @jax.jit
        def features(params, images):
            found = self.network(params, front_end(images).astype(dtype))["features"]
            return found.astype("float32")

        parts = [features(params, images[n : n + batch]) for n in range(0, len(images), batch)]
        return np.concatenate(parts)


def resized(images, size, name):
    """Images [N, H, W, C], resized by one of front_ends.RESIZES and clipped: float64."""
    from jaxdiff.evaluation.front_ends import RESIZES

    return np.clip(RESIZES[name].exact(images, size, size), 0, 255)


def rounded(images):
    """Grey levels to the nearest byte."""
    return np.round(images).astype(np.uint8)


def ways(small, large):
    """[(what differs, instead of, (images, arguments of Lite0), the same of the first way)].

    Args:
      small: photographs uint8 [N, 64, 64, 3].
      large: the same ones, uint8 [N, 200, 200, 3].
    """
    from studies.evaluation import images

    plain = (small, {})
    found = [
        (f"resize to 224: {text}", "bicubic, antialiased", (small, {"resize": name}), plain)
        for name, text in FRONT_ENDS.items()
    ]
    shrunk = resized(large, SIZE, "torch_bicubic_antialias")
    exact = (rounded(shrunk), {})
    what = f"data from {LARGE} to {SIZE}"
    for name in ("torch_bilinear", "torch_bicubic", "torch_bilinear_antialias"):
        text = "torch bilinear, antialiased" if "anti" in name else FRONT_ENDS[name]
        other = rounded(resized(large, SIZE, name)), {}
        found.append((f"{what}: {text}", "bicubic, antialiased", other, exact))
    found.append(("bytes truncated", "rounded", (shrunk.astype(np.uint8), {}), exact))
    found.append(("features in bfloat16", "float32", (small, {"dtype": "bfloat16"}), plain))
    for quality in (95, 75):
        found.append(
            (f"JPEG, quality {quality}", "as it is", (images.jpeg(small, quality), {}), plain)
        )
    return found


def measure(found, others, features):
    """Rows of COLUMNS.

    Args:
      found: from `ways`.
      others: features of other photographs, in the first way.
      features: (images, **arguments) -> features.
    """
    from jaxdiff.evaluation.metrics.frechet import Moments, distance

    reference, known, rows = Moments.of(others), {}, []
    for what, instead, second, first in found:
        if id(first[0]) not in known:
            known[id(first[0])] = features(first[0], **first[1])
        a, b = known[id(first[0])], features(second[0], **second[1])
        to_a, to_b = (distance(reference, Moments.of(each)) for each in (a, b))
        between = distance(Moments.of(a), Moments.of(b))
        print(f"{what}: {between:.3f}, from {to_a:.2f} to {to_b:.2f}", flush=True)
        rows.append([what, instead, between, to_a, to_b - to_a])
    return rows


def _job(args):
    from jaxdiff.claims import claimed_folder
    from studies.evaluation import images
    from studies.tables import markdown, save

    given = cli.require("photographs", args.photographs, "a folder of class folders")
    text = cli.require("out", args.out, "a folder such as samples/conversions")
    folder, out = files.parse_path(given, "--photographs"), files.parse_path(text, "--out")
    cli.start_jax(False)
    with claimed_folder(out, {"photographs": given}, "study.json", OWN):
        small, labels, names = images.photographs(folder, SIZE)
        large, _, _ = images.photographs(folder, LARGE)
        classes = range(len(names))
        chosen = images.kept_classes(labels, classes, COUNT)
        rest = np.setdiff1d(np.arange(len(labels)), chosen)
        others = rest[images.kept_classes(labels[rest], classes, COUNT)]
        network = Lite0()
        found = ways(small[chosen], large[chosen])
        rows = measure(found, network(small[others]), network)
        save(out / "conversions.json", COLUMNS, rows)
    print(markdown(COLUMNS, rows))


def main():
    """The command."""
    parser = cli.Parser(__doc__)
    cli.add_flag(parser, "photographs", help="Folder of class folders of photographs.")
    cli.add_flag(parser, "out", help="Folder of the table.")
    cli.run(_job, parser)


if __name__ == "__main__":
    main()
