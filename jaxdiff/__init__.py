"""Train diffusion models in JAX, keep their history, and guide them with it.

    import jaxdiff
    model = jaxdiff.load("runs/birds")
    samples = model.sample(64, cond={"label": 3}, guidance=[jaxdiff.CFG(2)])
    samples.images, samples.grid(), samples.save("samples/birds")

Trained models
    load            a TrainedModel of a run: .sample(n, ...), .denoise(x, sigma, ...)
    TrainedModel    a config with parameters, from a run or your own
    Samples         .images .x .cond .class_names .grid() .save(folder)
    load_samples    Samples of a folder that sample.py or .save wrote
    evaluate        samples against real images: {metric: Value}, as evaluate.py measures them

Guidance            CFG, ICG, Autoguidance, ClassifierGuidance; Schedule, APG, CADS
Samplers            DDPM, DDIM, Heun, DPMpp
Settings of a run   RunConfig: DataConfig, UNetConfig or ClassifierConfig, ADM or EDM,
                    TrainingConfig, EvaluationConfig, MeshConfig; conditions Label, Vector, Image,
                    Tokens

Parts
    network         a RunConfig's network: .init(key) .apply(params, x, time, condition)
    process         the noise process of ADM() or EDM(): .denoiser(function) .path(sampler)
    run_sampler     a sampler on any function (x, sigma) -> x0
    train           trains a RunConfig in a folder, as train.py does
    make_step       (init, step) of a RunConfig, to train by hand

Your mistakes raise UserError, one sentence each. docs/python.md has examples.
"""

import importlib

from jaxdiff.version import __version__ as __version__

_CONFIG = (
    "ADM APG CADS CFG DDIM DDPM DPMpp EDM ICG Autoguidance ClassifierConfig ClassifierGuidance "
    "DataConfig EvaluationConfig Heun Image Label MeshConfig RunConfig Schedule Tokens "
    "TrainingConfig UNetConfig Vector"
)
# Where each name is defined: its module is imported when it is first used.
_MODULES = {
    **dict.fromkeys(_CONFIG.split(), "jaxdiff.config"),
    "Samples": "jaxdiff.sampling.samples",
    "TrainedModel": "jaxdiff.sampling.trained_model",
    "UserError": "jaxdiff.errors",
    "evaluate": "jaxdiff.evaluation.measure",
    "load": "jaxdiff.sampling.trained_model",
    "load_samples": "jaxdiff.sampling.samples",
    "make_step": "jaxdiff.training.step",
    "network": "jaxdiff.factory",
    "process": "jaxdiff.factory",
    "run_sampler": "jaxdiff.sampling.from_function",
    "train": "jaxdiff.training.loop",
}


def __getattr__(name):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *_MODULES})
