"""The handwritten digits that scikit-learn ships, as a TFDS dataset that needs no network.

1,797 scans of 8 x 8 pixels in 10 classes (Alpaydin & Kaynak 1998, UCI Machine Learning
Repository). Values 0 .. 16 are scaled linearly to 0 .. 255.
"""

import numpy as np
import tensorflow_datasets as tfds

TEST_SIZE = 297


def load():
    """All scans in scikit-learn's order: (images [1797, 8, 8, 1] uint8, labels [1797] int64)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return images[..., None], digits.target


def split_indices(labels):
    """A fixed, stratified random permutation, cut in two: {"train": [1500], "test": [297]}."""
    from sklearn.model_selection import train_test_split

    train, test = train_test_split(
        np.arange(len(labels)), test_size=TEST_SIZE, stratify=labels, random_state=0
    )
    return {"train": train, "test": test}


class Digits(tfds.core.GeneratorBasedBuilder):
    """DatasetBuilder of `digits`; registered with TFDS by being imported."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    # Not an Image feature: that would need TensorFlow to encode an array.
                    "image": tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        images, labels = load()
        return {
            split: self._examples(images[chosen], labels[chosen])
            for split, chosen in split_indices(labels).items()
        }

    def _generate_examples(self):
        raise AssertionError("the split generators yield the examples themselves")

    def _examples(self, images, labels):
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield number, {"image": image, "label": int(label)}
