"""From settings to what runs: networks, processes, samplers, combiners and codecs.

A class of settings that is in no table here, such as one of another project, builds itself:
`build()`, and of a network `build(signature, rngs)`.
"""

import dataclasses

import numpy as np

from jaxdiff.config import ADM, APG, DDIM, DDPM, EDM, DPMpp, Heun, PixelCodec
from jaxdiff.diffusion.adm import AdmProcess
from jaxdiff.diffusion.edm import EdmProcess
from jaxdiff.guidance.combiners import Apg, Linear
from jaxdiff.models.codecs import Pixels
from jaxdiff.models.network import Network
from jaxdiff.parallel.attention import attention_for
from jaxdiff.samplers.ddim import DdimSampler
from jaxdiff.samplers.ddpm import DdpmSampler
from jaxdiff.samplers.dpmpp import DpmppSampler
from jaxdiff.samplers.heun import HeunSampler

PROCESSES = {ADM: AdmProcess, EDM: EdmProcess}
SAMPLERS = {DDPM: DdpmSampler, DDIM: DdimSampler, Heun: HeunSampler, DPMpp: DpmppSampler}


def network(config, mesh=None):
    """The Network of a RunConfig, without parameters; with a mesh, for its devices."""
    attend = None if mesh is None else attention_for(mesh)
    return Network(config.model, dataclasses.replace(config.signature, attend=attend))


def process(diffusion):
    """The noise process of settings, such as ADM()."""
    return _made(PROCESSES, diffusion)


def sampler(sampling):
    """The sampler of settings, such as Heun(steps=18)."""
    return _made(SAMPLERS, sampling)


def combiner(spec=None):
    """The combiner of settings, such as APG(); without any, the plain difference."""
    if spec is None:
        return Linear()
    if isinstance(spec, APG):
        return Apg(*map(np.float32, (spec.eta, spec.momentum, spec.norm)))
    return spec.build()


def codec(config):
    """The codec of a model's settings, such as PixelCodec()."""
    return Pixels() if isinstance(config, PixelCodec) else config.build()


def _made(table, settings):
    make = table.get(type(settings))
    return settings.build() if make is None else make(settings)
