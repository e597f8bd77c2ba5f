"""An extractor that is cheap: fixed random projections of the pixels, in NumPy."""

import dataclasses
from collections.abc import Callable

import numpy as np

BATCH = 7


@dataclasses.dataclass(frozen=True)
class Projection:
    """What `jaxdiff.evaluation.extractors.Extractor` is, of a projection.

    Attributes:
      calls: numbers of images of each run.
    """

    name: str = "inception-2015"
    front_end: str = "tf1-bilinear"
    digest: str = "ab" * 32
    outputs: dict = dataclasses.field(
        default_factory=lambda: {"features": 6, "spatial": 4, "logits": 5}
    )
    shape: tuple | None = None
    calls: list = dataclasses.field(default_factory=list)
    change: Callable = lambda rows: rows
    public: bool = True

    def __str__(self):
        return f"{self.name}, {self.front_end}"

    @property
    def key(self):
        return f"{self.name}.{self.front_end}.{self.digest[:8]}"

    def check(self, shape):
        assert self.shape in (None, shape)

    def project(self, images):
        """{output: float32 [N, D]} of uint8 images [N, H, W, C], grey repeated three times."""
        images = np.broadcast_to(images, (*images.shape[:3], 3))
        flat = images.reshape(len(images), -1).astype(np.float64) / 255
        found = {}
        for number, (name, size) in enumerate(self.outputs.items()):
            kernel = np.random.RandomState(number).randn(flat.shape[1], size)
            found[name] = self.change(flat @ kernel).astype(np.float32)
        return found

    def __call__(self, images):
        return self.project(images)

    def run(self, fetch, count, quiet=False, bar=None):
        self.calls.append(count)
        for start in range(0, count, BATCH):
            yield self.project(fetch(np.arange(start, min(start + BATCH, count))))

    def stream(self, images, quiet=False):
        return self.run(images.fetch, len(images), quiet)
