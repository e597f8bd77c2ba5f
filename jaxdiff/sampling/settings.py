"""What decides the samples of a job, as its settings.json and manifest have it."""

import dataclasses
import hashlib
import json

from jaxdiff.arrays import checksum
from jaxdiff.checkpoints.fingerprint import fingerprint
from jaxdiff.checkpoints.run import digest
from jaxdiff.config import is_settings, to_dict
from jaxdiff.config.guidance import GUIDES
from jaxdiff.version import __version__


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
        "label": label_of(job.cond),
        "conditions": {name: checksum(array) for name, array in job.cond.items()},
        **request,
        "sampling": {**request["sampling"], "num_steps": job.grid.num_steps},
        "weights": method.params.weights.tolist(),
        "classifier_scales": None if scales is None else scales.tolist(),
        "start": None if job.start is None else checksum(job.start),
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


def label_of(cond):
    """The first of conditions {name: array} that is a label, whose samples are sorted by it."""
    return next((name for name, array in cond.items() if array.dtype.kind == "i"), None)


def _digests(model, method):
    """{network, by its reference or its place: text that identifies its parameters}."""
    guides = {f"guide {number}": guide for number, guide in enumerate(method.guides)}
    networks = {"model": model, **guides, "classifier": method.classifier}
    return {
        str(each.reference or place): _digest(each)
        for place, each in networks.items()
        if each is not None
    }


def _digest(model):
    if model.reference is not None:
        return digest(model.reference)
    return hashlib.sha256(json.dumps(fingerprint(model.params)).encode()).hexdigest()
