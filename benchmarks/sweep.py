"""What a sweep costs beside its samples.

    python benchmarks/sweep.py --model runs/digits_edm --guide runs/digits_edm_guide \
        --features runs/digits_classifier

Sweeps a grid of 30 points as `python -m jaxdiff.evaluation.sweep` does, of copies of the runs that
keep nothing: compiling, rebuilding averages, features of the data and figure included. Then samples
some of the points again with all compiled and read, and prints the ratio of the times.
"""

import pathlib
import shutil
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import jax
import numpy as np
from etils import epath

from jaxdiff import cli
from jaxdiff.config import import_modules
from jaxdiff.evaluation import run_sweep
from jaxdiff.evaluation.search import Search, grid

WEIGHTS, EMAS, GUIDE_EMAS = (1.5, 2, 2.5, 3, 4), (0.05, 0.1), (0.08, 0.15, 0.2)


def fresh(run, folder, name):
    """A copy of a run without what is kept in it for later."""
    copy, run = pathlib.Path(folder) / name, pathlib.Path(run)

    def kept(place, names):
        # A snapshot has a folder `ema` of its own.
        return {"ema", "features"} & set(names) if pathlib.Path(place) == run else ()

    shutil.copytree(run, copy, ignore=kept)
    return str(copy)


def main():
    parser = cli.Parser(__doc__)
    cli.add_flag(parser, "model", help="A run that tracks two averages")
    cli.add_flag(parser, "guide", help="The same")
    cli.add_flag(parser, "features", help="A classifier's run")
    cli.add_flag(parser, "num_samples", int, 500, "Of a point")
    cli.add_flag(parser, "repeats", int, 6, "Points that are sampled again")
    cli.run(_measure, parser)


def _measure(args):
    import_modules(["studies.digits.data"])
    own = []
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", f"{folder}/xla")
        runs = {
            name: fresh(cli.require(name, getattr(args, name), "the folder of a run"), folder, name)
            for name in ("model", "guide", "features")
        }
        search = Search(model=runs["model"], guide=runs["guide"], num_samples=args.num_samples)
        points = grid(search, WEIGHTS, [], EMAS, GUIDE_EMAS, [])
        start = time.perf_counter()
        run_sweep.run(search, points, runs["features"], epath.Path(folder) / "out")
        whole = time.perf_counter() - start
        search.samples(points[-1])  # compiles
        for point in points[-args.repeats :]:
            start = time.perf_counter()
            search.samples(point)
            own.append(time.perf_counter() - start)
    samples = float(np.median(own)) * len(points)
    print(
        f"{len(points)} points of {search.num_samples} samples: {whole:.1f} s, the samples "
        f"themselves {samples:.1f} s ({min(own):.2f} to {max(own):.2f} a point): ratio "
        f"{whole / samples:.3f}"
    )


if __name__ == "__main__":
    main()
