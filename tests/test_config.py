import ast
import importlib
import json
import math
import pathlib

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import toy
from jaxdiff import config as config_lib
from jaxdiff import factory
from jaxdiff.errors import UserError
from tests import tiny


def test_the_examples_are_valid():
    config_lib.validate(tiny.digits.get_config())
    config_lib.validate(tiny.config())


def test_every_number_has_a_range_and_every_name_its_choices():
    fields = config_lib.flatten(config_lib.base())
    free_text = {"data.name", "data.held_out", "diffusion.from_run", "sampling.steps"}
    for name, value in fields.items():
        known = {*config_lib.CHOICES, *config_lib.RANGES, *config_lib.NUMBER_LISTS, *free_text}
        assert name in known or isinstance(value, bool), name


def test_every_field_is_read_somewhere():
    root = pathlib.Path(config_lib.__file__).parent
    fields = {name for name in config_lib.flatten(config_lib.base()) if "." in name}
    found = set()
    for path in root.rglob("*.py"):
        if path.name != "config.py":
            found |= read_in(ast.parse(path.read_text()), {name.split(".")[0] for name in fields})
    assert fields - found == set()


def test_what_reads_a_field_is_found():
    text = "t, n = config.training, 3\nt.ema\ndata.name\na.seed.fit = 1\nconfig.model.kind = t.b.c"
    assert read_in(ast.parse(text), {"training", "data", "model", "b"}) & {
        "training.ema",
        "data.name",
        "seed.fit",
        "model.kind",
        "b.c",
        "training.kind",
    } == {"training.ema", "data.name", "b.c"}


def read_in(tree, sections):
    """Of a program, {"section.field"} of all reads, where `x = config.section` names a section."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            names |= {
                target.id: value.attr
                for target, value in pairs(node.targets[0], node.value)
                if isinstance(target, ast.Name) and getattr(value, "attr", None) in sections
            }
    read = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            owner = getattr(node.value, "attr", getattr(node.value, "id", None))
            read.add(f"{names.get(owner, owner)}.{node.attr}")
    return read


def pairs(target, value):
    """What an assignment gives to what: of tuples, each part by itself."""
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        return list(zip(target.elts, value.elts, strict=False))
    return [(target, value)]


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("model__kind", "transformer", "unet"),
        ("diffusion__schedule", "quadratic", "cosine or linear"),
        ("training__batch_size", 0, "batch_size is 0"),
        ("training__learning_rate", float("nan"), "learning_rate is nan"),
        ("diffusion__label_dropout", 1.5, "label_dropout is 1.5"),
        ("diffusion__label_dropout", 1.0, "label_dropout is 1.0"),
        ("diffusion__p_mean", 60.0, "p_mean is 60"),
        ("diffusion__p_std", 0.0, "p_std is 0"),
        ("diffusion__data_std", 1e-300, "data_std is 1e-300"),
        ("diffusion__num_timesteps", 1, "num_timesteps is 1"),
        ("training__learning_rate", float("inf"), "learning_rate is inf"),
        ("training__learning_rate", 0.0, "learning_rate is 0"),
        ("training__beta1", 1.0, "beta1 is 1"),
        ("training__beta2", 1.0, "beta2 is 1"),
        ("training__ema", 1.0, "ema is 1"),
        ("training__weight_decay", float("inf"), "weight_decay is inf"),
        ("training__weight_decay", 1000.0, "weight_decay is 1000"),  # times .001
        ("training__clip_norm", float("inf"), "clip_norm is inf"),
        ("training__clip_norm", -1.0, "clip_norm is -1"),
        ("training__power_ema", (float("nan"),), "power_ema is"),
        ("model__dropout", 1.0, "dropout is 1"),
        ("model__channel_mult", (1e9,), "channel_mult is"),
        ("model__channel_mult", (float("inf"),), "channel_mult is"),
        ("model__channel_mult", (float("nan"),), "channel_mult is"),
        ("model__channel_mult", (True,), "channel_mult is"),
        ("model__attention_resolutions", (8.5,), "attention_resolutions is"),
        ("data__image_size", 1_000_000, "image_size is 1000000"),
        ("sampling__sigma_min", 90.0, "sigma_min is 90"),
        ("sampling__churn", (float("nan"),), "churn is"),
        ("model__channel_mult", (1, "a"), "positive numbers"),
        ("model__channel_mult", (), "empty"),
        ("data__name", "", "data.name is empty"),
        ("data__fit", "stretch", "crop or pad"),
        ("data__num_classes", 0, "no labels to drop"),
        ("diffusion__loss", "simple", "does not train the variance"),
        ("diffusion__prediction", "noise", "eps, x0 or v"),
        ("diffusion__variance", "fixed", "fixed_small or fixed_large"),
        ("training__anneal_steps", 3, "must end after it has begun"),
        ("training__anneal_steps", 10, "train no longer"),
        ("training__power_ema", (0.05, 0.3), "different widths below 0.2887"),
        ("training__power_ema", (0.1, 0.1), "different widths"),
        ("training__snapshot_dtype", "float16", "float32 or bfloat16"),
        ("data__name", "toy_a", "belong together"),
        ("model__kind", "toy", "belong together"),
        ("sampling__sigma_min", 0.0, "sampling.sigma_min is 0.0"),
    ],
)
def test_values_that_cannot_be_right_are_refused(field, value, words):
    with pytest.raises(UserError, match=words):
        config_lib.validate(tiny.config(**{field: value}))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 10**30])
@pytest.mark.parametrize(
    "field",
    [
        name
        for name, value in config_lib.flatten(config_lib.base()).items()
        if value.__class__ in (int, float)
    ],
)
def test_no_number_may_be_anything(field, value):
    config = tiny.config()
    section, _, name = field.rpartition(".")
    with config.unlocked(), config.ignore_type():
        (config[section] if section else config)[name] = value
    with pytest.raises(UserError, match=f"^{field} is "):
        config_lib.validate(config)


# The largest beta is .02 * 1000 / T: 1 at T = 20.
@pytest.mark.parametrize(("num_timesteps", "is_right"), [(2, False), (20, False), (21, True)])
def test_the_linear_schedule_needs_more_than_twenty_timesteps(num_timesteps, is_right):
    fields = {"diffusion__schedule": "linear", "diffusion__num_timesteps": num_timesteps}
    if is_right:
        config_lib.validate(tiny.config(**fields))
    else:
        with pytest.raises(UserError, match=f"num_timesteps is {num_timesteps}:"):
            config_lib.validate(tiny.config(**fields))
        # It is no schedule of EDM's process.
        edm = {"diffusion__process": "edm", "data__name": "digits"}
        config_lib.validate(tiny.config(**fields, **edm))


def remove_section(config):
    del config.sampling


def remove_field(config):
    del config.training.ema


def add_section(config):
    config.optimiser = ConfigDict({"beta": 1})


def add_field(config):
    config.training.learning_rat = 1.0


def replace_section(config):
    config.training = 5


def replace_number(config):
    config.training.num_steps = "many"


def replace_whole_number(config):
    config.training.num_steps = 10.0


def replace_text(config):
    config.data.name = None


def replace_tuple(config):
    config.model.channel_mult = 3


def replace_flag(config):
    config.training.remat = 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (remove_section, "lacks sampling"),
        (remove_field, "lacks training.ema"),
        (add_section, "no field optimiser"),
        (add_field, "no field training.learning_rat: did you mean training.learning_rate"),
        (replace_section, "training is 5"),
        (replace_number, "training.num_steps is many"),
        (replace_whole_number, "training.num_steps is 10.0"),
        (replace_text, "data.name is None"),
        (replace_tuple, "model.channel_mult is 3"),
        (replace_flag, "training.remat is 1"),
    ],
)
def test_a_config_has_the_fields_of_base_and_no_others(change, words):
    config = tiny.config()
    with config.unlocked(), config.ignore_type():
        change(config)
    with pytest.raises(UserError, match=words) as caught:
        config_lib.validate(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("variance", ["learned_range", "learned"])
def test_a_learned_variance_needs_a_loss_that_trains_it(variance):
    for loss in ("hybrid", "hybrid_unscaled", "vlb"):
        config_lib.validate(tiny.config(diffusion__variance=variance, diffusion__loss=loss))
    with pytest.raises(UserError, match=f"`{variance}` asks for"):
        config_lib.validate(tiny.config(diffusion__variance=variance, diffusion__loss="simple"))


@pytest.mark.parametrize(
    "field", ["diffusion.prediction", "diffusion.variance", "diffusion.loss", "diffusion.schedule"]
)
def test_every_choice_of_a_process_is_another_process(field):
    processes = []
    for choice in config_lib.CHOICES[field]:
        config = tiny.config(**{field.replace(".", "__"): choice})
        processes.append(factory.process(config))
        channels = factory.network(config).spec.out_channels
        assert channels == (2 if config.diffusion.variance.startswith("learned") else 1)
    for n, process in enumerate(processes):
        assert process not in processes[:n]


@pytest.mark.parametrize(
    "field",
    [
        "training.num_steps",
        "training.checkpoint_every",
        "mesh.fsdp",
        "sampling.eta",
        "data.workers",
    ],
)
def test_what_does_not_change_the_numbers_is_no_difference(field):
    new = tiny.config()
    new.update_from_flattened_dict({field: 3})
    assert config_lib.differences(tiny.config(), new) == []


def test_differences_are_named_with_both_values():
    new = tiny.config(training__learning_rate=0.5, seed=3, training__anneal_steps=30)
    assert config_lib.differences(tiny.config(), new) == [
        "seed (0 in the run, now 3)",
        "training.anneal_steps (0 in the run, now 30)",
        "training.learning_rate (0.001 in the run, now 0.5)",
    ]


def test_json_keeps_every_value(tmp_path):
    config = tiny.config(model__channel_mult=(0.5, 1))
    (tmp_path / "config.json").write_text(config_lib.to_json(config))
    assert config_lib.from_json(tmp_path / "config.json") == config


def test_no_flipped_bit_of_a_run_s_config_is_believed(tmp_path):
    path, text = tmp_path / "config.json", config_lib.to_json(tiny.config()).encode()
    for position in range(0, len(text), 3):
        damaged = bytearray(text)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(UserError):
            config_lib.from_json(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b'"x"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 900 + b"1" + b"}" * 900,
        b'{"jaxdiff": "0.1"}',
    ],
)
def test_a_file_that_is_no_config_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"^{path}[^\n]*$"):
        config_lib.from_json(path)


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("data", "image_size", 0),
        ("data", "image_size", 8.5),
        ("data", "name", None),
        ("model", "channel_mult", None),
        ("model", "channel_mult", [[1]]),
        ("model", "dropout", "much"),
        ("model", "kind", "vae"),
        ("sampling", "clip", 1),
        ("training", "learning_rate", math.nan),
        (None, "seed", True),
        (None, "seed", {}),
        (None, "model", None),
        (None, "model", []),
    ],
)
def test_an_edited_config_is_taken_without_its_checksum_if_its_values_can_be_right(
    tmp_path, section, name, value
):
    path, values = tmp_path / "config.json", json.loads(config_lib.to_json(tiny.config()))
    del values["checksum"]
    values["seed"] = 5
    path.write_text(json.dumps(values))
    assert config_lib.from_json(path) == tiny.config(seed=5)
    (values[section] if section else values)[name] = value
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=name):
        config_lib.from_json(path)


@pytest.mark.parametrize("name", ["toy", "toy_guide", "toy_unconditional"])
def test_the_toy_configs_are_valid(name):
    config_lib.validate(importlib.import_module(f"configs.{name}").get_config())


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("model.kind", "unet", "belong together"),
        ("data.name", "digits", "belong together"),
        ("diffusion.process", "adm", "trained with edm alone"),
        ("diffusion.label_dropout", 0.1, "no labels to drop"),
        ("data.num_classes", 2, "data.num_classes is 2, which has no meaning for points"),
        ("data.augment", "flip", "set it to none"),
        ("sampling.clip", True, "set it to False"),
        ("model.dropout", 0.1, "no meaning for points: set it to 0"),
        ("diffusion.uncertainty", True, "no meaning for points: set it to False"),
        ("diffusion.data_std", 0.0, "that of points is not measured"),
        ("training.anneal_steps", 4096, "falls in one way"),
        ("diffusion.timestep_sampler", "loss_second_moment", "has no timesteps"),
    ],
)
def test_what_has_no_meaning_for_the_toy_is_refused(field, value, words):
    config = toy.get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=words):
        config_lib.validate(config)


def test_classifiers_see_the_noise_of_adm():
    config = tiny.config(
        model__kind="classifier", diffusion__label_dropout=0.0, diffusion__process="edm"
    )
    with pytest.raises(UserError, match="the noise of adm alone"):
        config_lib.validate(config)


def test_a_unet_of_edm_learns_no_variance():
    config = tiny.config(diffusion__process="edm", diffusion__p_mean=-0.8)
    config_lib.validate(config)
    assert factory.network(config).spec.out_channels == 1
    process = factory.process(config)
    assert (process.p_mean, process.p_std, process.data_std, process.data) == (-0.8, 1.2, 0.5, None)


def test_a_sampler_goes_through_the_levels_of_its_process():
    config = toy.get_config()
    for name in ("heun", "dpmpp", "ddim", "ddpm"):
        config.sampling.sampler = name
        levels, steps = factory.path(config, config.sampling)
        np.testing.assert_allclose(levels.ratio[[0, 31, 32]], [5, 0.002, 0])
        assert len(steps.ratio) == 32


def test_a_sampler_that_there_is_not_is_refused():
    sampling = tiny.config().sampling
    sampling.sampler = "huen"
    with pytest.raises(UserError, match="'huen'.*ddpm, ddim, heun, dpmpp"):
        factory.sampler(sampling)
