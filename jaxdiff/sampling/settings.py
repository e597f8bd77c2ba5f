"""What decides the samples of a job, as its settings.json and manifest have it."""

import dataclasses
import hashlib

import numpy as np

from jaxdiff.checkpoints.run import digest
from jaxdiff.config import is_settings, to_dict
from jaxdiff.version import __version__

GUIDES = ("guide", "classifier")  # fields of guidance specs that hold a network


def settings_of(job):
    """A dict of JSON values; jobs with the same settings make the same samples."""
    method, request = job.method, {k: _described(v) for k, v in job.request.items()}
    scales = method.params.scales
    return {
        "jaxdiff": __version__,
        "model": str(job.model),
        "config": to_dict(job.model.config),
        "num_samples": job.num_samples,
        "seed": job.seed,
        "class_names": list(job.class_names),
        "conditions": {name: _checksum(array) for name, array in job.cond.items()},
        **request,
        "sampling": {**request["sampling"], "num_steps": job.grid.num_steps},
        "weights": method.params.weights.tolist(),
        "classifier_scales": None if scales is None else scales.tolist(),
        "start": None if job.start is None else _checksum(job.start),
        "networks": _digests(job.model, method),
        "notes": list(method.notes),
        "network_evaluations_per_sample": job.evaluations,
    }


def _described(value):
    """Settings as JSON values; networks in them by name."""
    if isinstance(value, (list, tuple)):
        return [_described(each) for each in value]
    if not is_settings(value):
        return value
    names = {field: str(getattr(value, field)) for field in GUIDES if hasattr(value, field)}
    return to_dict(dataclasses.replace(value, **names))


def _checksum(array):
    """Of an array's type, shape and values."""
    head = f"{array.dtype} {array.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()


def _digests(model, method):
    """{network: text that identifies its parameters}, of those that were read from runs."""
    networks = [model, *method.guides, *([method.classifier] if method.classifier else [])]
    return {str(each): digest(each.reference) for each in networks if each.reference}
