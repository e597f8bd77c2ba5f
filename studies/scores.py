"""Label agreement and diversity of samples, measured with a classifier of real images.

Label agreement: the share of samples that a classifier of scikit-learn, fitted to real images,
assigns the label that they are conditioned on. Diversity: the mean distance between two samples of
a class, as a share of that between two real images of the class; 1 is as diverse as the data, 0 is
collapse. Neighbour: the mean distance from a sample to the nearest real training image of its
class, as a share of that from a held-out real image; 1 is as close as the data.
"""

import dataclasses
from functools import cached_property
from typing import Any

import numpy as np

SIZE = 20_000  # images of a split that are used: to fit the classifier, and to compare with
DISTANCE_SIZE = 1000  # of a class, to compare with


@dataclasses.dataclass(frozen=True)
class Score:
    """What is measured for each class.

    Attributes:
      count: [classes] samples of the class.
      agreement: [classes] share that is assigned the class, in [0, 1].
      diversity: [classes] mean pairwise distance over the real one; NaN for fewer than two samples.
      total_agreement: share over all samples.
      neighbour: mean distance to the nearest real image of the class, over the held-out ones'.
    """

    count: np.ndarray
    agreement: np.ndarray
    diversity: np.ndarray
    total_agreement: float
    neighbour: float


@dataclasses.dataclass(frozen=True)
class Real:
    """Real images, as rows of numbers, and a classifier of them.

    Attributes:
      train, test: (rows [N, D] float, labels [N] int) of the splits.
      classifier: of scikit-learn, fitted to the training rows.
    """

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    classifier: Any

    @cached_property
    def _classes(self):
        """{label: the first DISTANCE_SIZE training rows of it}."""
        rows, labels = self.train
        return {c: rows[labels == c][:DISTANCE_SIZE] for c in np.unique(labels)}

    @cached_property
    def _spreads(self):
        return {c: mean_pairwise_distance(rows) for c, rows in self._classes.items()}

    @cached_property
    def held_out(self):
        """The Score of the held-out images: what samples as good as the data would have."""
        return self.score(*self.test)

    @cached_property
    def _held_out_neighbour(self):
        return self._neighbour(*self.test)

    def score(self, rows, labels):
        """The Score of samples [N, D] conditioned on the classes `labels` int [N]."""
        correct = self.classifier.predict(rows) == labels
        of_class = {c: labels == c for c in self._classes}
        return Score(
            count=np.array([chosen.sum() for chosen in of_class.values()]),
            agreement=np.array(
                [correct[chosen].mean() if chosen.any() else np.nan for chosen in of_class.values()]
            ),
            diversity=np.array(
                [
                    mean_pairwise_distance(rows[chosen]) / self._spreads[c]
                    for c, chosen in of_class.items()
                ]
            ),
            total_agreement=correct.mean(),
            neighbour=self._neighbour(rows, labels) / self._held_out_neighbour,
        )

    def _neighbour(self, rows, labels):
        from sklearn.metrics import pairwise_distances_argmin_min

        nearest = [
            pairwise_distances_argmin_min(rows[labels == c], self._classes[c])[1]
            for c in np.unique(labels)
        ]
        return np.concatenate(nearest).mean()


def mean_pairwise_distance(x):
    """Mean Euclidean distance between two different rows of [N, D]; NaN for fewer than two."""
    from sklearn.metrics import pairwise_distances

    count = len(x)
    return pairwise_distances(x).sum() / (count * (count - 1)) if count > 1 else np.nan


def rows_of(images):
    """Images [N, ...] uint8 as rows of numbers in [0, 1], float32 [N, D]."""
    return images.reshape(len(images), -1).astype(np.float32) / 255


def real(train, test):
    """A Real of two splits of any labelled images, with a support vector machine.

    Args:
      train, test: Sources.
    """
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import SVC

    splits = []
    for source in (train, test):
        batch = some(source)
        splits.append((rows_of(batch["x"]), batch["cond"][source.label]))
    rows, labels = splits[0]
    components = min(64, *rows.shape)
    machine = make_pipeline(PCA(components, whiten=True, random_state=0), SVC(C=10, gamma="scale"))
    return Real(*splits, classifier=machine.fit(rows, labels))


def some(source):
    """At most SIZE examples of a source, from all parts of it, as `Source.fetch` gives them."""
    count = min(len(source), SIZE)
    return source.fetch(np.arange(count) * len(source) // count)
