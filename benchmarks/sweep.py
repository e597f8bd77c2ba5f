"""What a sweep costs beside its samples.

    python benchmarks/sweep.py --model runs/digits_edm --guide runs/digits_edm_guide \
        --features runs/digits_classifier

Sweeps a grid of 30 points as `python -m jaxdiff.evaluation.sweep` does, compiling, rebuilding
averages, features and figure included; then samples the same points again with all compiled and
read, `--repeats` of them, and prints the ratio of the times.
"""

import pathlib
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import numpy as np
from absl import flags

from jaxdiff import cli
from jaxdiff.evaluation import sweep
from jaxdiff.evaluation.search import Search, grid

WEIGHTS, EMAS, GUIDE_EMAS = (1.5, 2, 2.5, 3, 4), (0.05, 0.1), (0.08, 0.15, 0.2)


def main():
    values = flags.FLAGS
    search = Search(
        model=cli.require("model", values.model, "a run such as runs/digits_edm"),
        guide=cli.require("guide", values.guide, "a run such as runs/digits_edm_guide"),
        num_samples=values.num_samples,
    )
    points = grid(search, WEIGHTS, [], EMAS, GUIDE_EMAS, [])
    cli.use_compilation_cache()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        sweep.run(search, points, values.features, pathlib.Path(folder) / "out")
        whole = time.perf_counter() - start
    own = []
    for point in points[-values.repeats :]:
        start = time.perf_counter()
        search.images(point)
        own.append(time.perf_counter() - start)
    samples = float(np.median(own)) * len(points)
    print(
        f"{len(points)} points of {search.num_samples} samples: {whole:.1f} s, the samples "
        f"themselves {samples:.1f} s ({min(own):.2f} to {max(own):.2f} a point): ratio "
        f"{whole / samples:.3f}"
    )


if __name__ == "__main__":
    flags.DEFINE_string("model", None, "A run that tracks two averages.")
    flags.DEFINE_string("guide", None, "The same.")
    flags.DEFINE_string("features", None, "A classifier's run.")
    flags.DEFINE_integer("num_samples", 500, "Of a point.")
    flags.DEFINE_integer("repeats", 6, "Points that are sampled again.", lower_bound=1)
    cli.run(main)
