"""The job that samples a run: what was asked for, resolved; batches; files and their manifest."""

import dataclasses
import hashlib
import math

import jax
import numpy as np

from jaxdiff import factory, results
from jaxdiff.checkpoints.run import digest
from jaxdiff.data.images import to_float
from jaxdiff.errors import UserError
from jaxdiff.files import json_text, local_path, read_json
from jaxdiff.parallel import processes
from jaxdiff.parallel.memory import out_of_memory, physical_memory
from jaxdiff.parallel.mesh import make_mesh
from jaxdiff.results import replace
from jaxdiff.samplers.grid import Grid
from jaxdiff.sampling import finite, image_grid
from jaxdiff.sampling import guidance_config as method_lib
from jaxdiff.sampling.guidance_config import Method
from jaxdiff.sampling.latents import given_with
from jaxdiff.sampling.options import Request, parse_classes, sampling_config
from jaxdiff.sampling.pipeline import Generator
from jaxdiff.sampling.trained_model import Model, open_model
from jaxdiff.version import __version__

NUM_SAMPLES = 64
MAX_TILES = 100
SETTINGS = "settings.json"  # of the request, written first
MANIFEST = "manifest.json"  # the same and what came of it, written last
WRITTEN = ("samples_*.npz", "grid.png", MANIFEST)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """A request with all that it names found and checked; nothing is computed or written yet.

    Attributes:
      request: with the number of samples decided.
      model: that is sampled.
      method: how it is guided.
      generate: the Generator.
      grid: the sampler's.
      evaluations: {network: how often it is evaluated for one sample}.
      settings: what decides the samples, for the manifest.
    """

    request: Request
    model: Model
    method: Method
    generate: Generator
    grid: Grid
    evaluations: dict[str, int]
    settings: dict

    def params(self):
        """Reads the parameters of all networks."""
        with out_of_memory("use devices with more"):
            return self.method.params(self.model, self.generate.mesh)

    def samples(self, params, seed, numbers, quiet=False):
        """Samples with these numbers, float32 [len(numbers), ...] NumPy.

        Raises:
          UserError: if the memory does not suffice.
        """
        size = self.request.batch_size
        with out_of_memory(f"choose a --batch_size smaller than {min(size, len(numbers))}"):
            return self.generate(
                params,
                self.grid,
                seed,
                numbers,
                size,
                strength=self.method.strength,
                cads=self.method.cads,
                quiet=quiet,
            )


def prepare(request: Request):
    """Finds all that a request names.

    Raises:
      UserError: for a reference, class, sampler, method or file that cannot be used.
    """
    request, given = given_with(request)
    if request.num_samples is None:
        request = dataclasses.replace(request, num_samples=NUM_SAMPLES)
    _check_numbers(request)
    model = open_model(request.model, "model")
    _check_memory(factory.sample_shape(model.config), request.num_samples)
    _check_low_res(model, request)
    sampling = sampling_config(model.config, request)
    sampler = factory.sampler(sampling)
    levels, steps = factory.path(model.config, sampling)
    method = method_lib.find(request, model, steps)
    generate = _generator(model, sampler, method, request, given)
    grid = sampler.grid(levels)
    evaluations = _evaluations(generate.evaluations(grid.num_steps, method.strength), method)
    settings = {
        "jaxdiff": __version__,
        "model": str(model),
        "config": model.config.to_dict(),
        "sampling": {**sampling.to_dict(), "num_steps": grid.num_steps},
        "num_samples": request.num_samples,
        "seed": request.seed,
        "classes": sorted(set(generate.classes)) if given else list(generate.classes),
        "guidance": _guidance(request, method),
        "networks": _digests(model, method),
        "notes": list(method.notes),
        "latents": given.checksum() if request.latents else None,
        "low_res": given.checksum() if request.low_res else None,
        "network_evaluations_per_sample": evaluations,
    }
    return Job(
        request=request,
        model=model,
        method=method,
        generate=generate,
        grid=grid,
        evaluations=evaluations,
        settings=settings,
    )


def run(request: Request):
    """Samples, and writes samples_{N}x{H}x{W}x{C}.npz, grid.png and manifest.json.

    Where these are there already nothing is sampled again.

    Raises:
      UserError: as `prepare`, for a folder that cannot be used, and for samples that are not
        finite, after all has been written.
    """
    out = local_path(request.out, "--out")
    job = prepare(request)
    with results.claimed_folder(out, job.settings, SETTINGS, WRITTEN):
        if not processes.agree(int(bool(results.in_first(_is_finished, out, job)))):
            _sample(job, out)


def _sample(job, out):
    params, count = job.params(), job.request.num_samples
    if processes.is_first():
        spent = ", ".join(f"{n} of {name}" for name, n in job.evaluations.items())
        print(
            f"Sampling {job.model} with {job.settings['sampling']['sampler']}, "
            f"{job.grid.num_steps} steps; network evaluations for each sample: {spent}.",
            *job.method.notes,
            "Compiling the sampler, which the first batch waits for.",
            sep="\n",
            flush=True,
        )
    samples = job.samples(params, job.request.seed, np.arange(count))
    bad = finite.non_finite(samples)
    if processes.is_first():
        labels = job.generate.labels(np.arange(count)) if job.generate.classes else None
        _write(out, job.settings, samples, labels, bad)
        print(f"Wrote {count} samples, grid.png and manifest.json to {out}")
    _check_finite(finite.summary(bad), count, out)


def _check_finite(found, count, out):
    if found["count"]:
        raise UserError(
            f"{finite.about(found, count)}, see {out / MANIFEST}: choose a smaller weight, scale "
            "or churn, sample with --clip, or use another step of the model."
        )


def _check_numbers(request):
    if request.num_samples < 1 or request.batch_size < 1:
        raise UserError(
            f"--num_samples {request.num_samples} and --batch_size {request.batch_size} must be "
            "positive."
        )
    if not 0 <= request.seed < 2**31:
        raise UserError(f"--seed {request.seed} must lie between 0 and {2**31 - 1}.")


def _check_memory(shape, count):
    """Refuses more samples than this machine can hold."""
    size, memory = count * math.prod(shape) * 4, physical_memory()
    if size > memory or count >= 2**31:
        raise UserError(
            f"--num_samples {count} of shape {shape} take {size / 1e9:.3g} GB, and this machine "
            f"has {memory / 1e9:.3g} GB of memory: sample fewer at a time."
        )


def _digests(model, method):
    """What tells these networks from others of the same names, which were made again."""
    networks = [model, *method.guides, *([method.classifier] if method.classifier else [])]
    return {str(network): digest(network.reference) for network in networks}


def _check_low_res(model, request):
    size = model.config.data.low_res_size
    if size and not request.low_res:
        raise UserError(
            f"{model} enlarges images of {size} pixels: give a file of them with --low_res."
        )
    if request.low_res and not size:
        raise UserError(f"{model} does not enlarge images: leave --low_res out.")


def _generator(model, sampler, method, request, given):
    """What makes the samples: the method's networks, with what files give."""
    shape, num_classes = factory.sample_shape(model.config), method.num_classes(model)
    if given is None and request.classes is None:
        classes = method.classes(model)
    elif given is None:
        classes = parse_classes(request.classes, num_classes)
    else:
        data = model.config.data
        size = data.low_res_size if request.low_res else data.image_size
        classes = given.classes((size, size, data.channels), num_classes)
    # Two batches of B keep a CPU as busy as one of 2B.
    together = jax.default_backend() != "cpu" if request.together is None else request.together
    return Generator(
        network=model.network,
        process=model.process,
        sampler=sampler,
        shape=shape,
        classes=classes,
        mesh=make_mesh(),
        guides=tuple((guide.network, guide.process) for guide in method.guides),
        references=method.references,
        classifier=method.classifier.network if method.uses_classifier else None,
        together=together,
        start=given.array if request.latents else None,
        low_res=to_float(given.array) if request.low_res else None,
    )


def _evaluations(counts, method):
    """{network: evaluations for one sample}, of the networks that are evaluated at all."""
    spent = {"model": counts.main}
    for guide, count in zip(method.guides, counts.guides, strict=True):
        spent[str(guide)] = spent.get(str(guide), 0) + count
    spent["classifier"] = counts.classifier
    return {name: count for name, count in spent.items() if count}


def _guidance(request, method):
    """All that shapes the samples beside the sampler, for the manifest."""
    networks = [str(guide) for guide in method.guides]
    names = ("cads", "apg", "rescale", "schedule", "interval")
    return {
        "references": [
            {
                "network": "model" if r.guide is None else networks[r.guide],
                "told": r.told.value,
                "weights": weights.tolist(),
            }
            for r, weights in zip(method.references, method.strength.weights, strict=True)
        ],
        "classifier": str(method.classifier) if method.classifier else None,
        "classifier_scale": request.scale if method.classifier else 0.0,
        **{name: getattr(request, name) for name in names},
    }


def _is_finished(out, job):
    """Whether all files of this very job are there, and says so.

    Raises:
      UserError: if one of its files was changed since, or samples are not finite.
    """
    path = out / MANIFEST
    if not path.exists():
        return False
    advice = "choose another --out, or delete that folder"
    manifest = read_json(path, ("sha256", "non_finite"), advice=advice)
    sums, found = manifest.pop("sha256"), manifest.pop("non_finite")
    results.check_same(out, manifest, job.settings)
    for name, checksum in sums.items():
        if not (out / name).exists():
            return False
        if _checksum(out / name) != checksum:
            raise UserError(f"{out / name} was changed since it was written: {advice}.")
    print(f"The {job.request.num_samples} samples of this request are in {out} already.")
    _check_finite(found, job.request.num_samples, out)
    return True


def _checksum(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write(out, settings, samples, labels, bad):
    """Writes each file under another name first, so that none is ever half there.

    Numbers of samples that are not finite, `bad`, are named in each; images of them are none.
    """
    is_image = samples.ndim == 4
    arrays = {"arr_0": finite.pictures_of(samples, bad) if is_image else samples}
    arrays |= {} if labels is None else {"arr_1": labels.astype(np.int64)}
    arrays |= {finite.ARRAY: bad} if len(bad) else {}
    file_name = f"samples_{'x'.join(map(str, samples.shape))}.npz"
    replace(out / file_name, lambda file: np.savez(file, **arrays))
    picture = _picture(arrays["arr_0"], labels, len(settings["classes"]), bad)
    replace(out / "grid.png", lambda file: picture.save(file, "png"))
    manifest = {
        **settings,
        "non_finite": finite.summary(bad),
        "sha256": {name: _checksum(out / name) for name in (file_name, "grid.png")},
    }
    replace(out / MANIFEST, lambda file: file.write(json_text(manifest).encode()))


def _picture(samples, labels, num_classes, bad):
    if samples.ndim == 2:
        return image_grid.scatter(np.delete(samples, bad, 0))
    shown = samples[:MAX_TILES]
    captions = () if labels is None else [str(label) for label in labels[:MAX_TILES]]
    return image_grid.grid(shown, image_grid.columns_for(len(shown), num_classes), captions, bad)
