import ast
import importlib
import json
import math
import pathlib

import numpy as np
import pytest

from configs import toy
from jaxdiff import build
from jaxdiff import config as config_lib
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
        ("training__batch_size", 0, "between 1"),
        ("training__learning_rate", float("nan"), "learning_rate is nan"),
        ("diffusion__label_dropout", 1.5, "between 0 and 1"),
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
        ("training__power_ema", (0.05, 0.3), "different widths below 0.2886"),
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
        processes.append(build.process(config))
        channels = build.network(config).spec.out_channels
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
    assert build.network(config).spec.out_channels == 1
    process = build.process(config)
    assert (process.p_mean, process.p_std, process.data_std, process.data) == (-0.8, 1.2, 0.5, None)


def test_a_sampler_goes_through_the_levels_of_its_process():
    config = toy.get_config()
    for name in ("heun", "dpmpp", "ddim", "ddpm"):
        config.sampling.sampler = name
        levels, steps = build.path(config, config.sampling)
        np.testing.assert_allclose(levels.ratio[[0, 31, 32]], [5, 0.002, 0])
        assert len(steps.ratio) == 32


def test_a_sampler_that_there_is_not_is_refused():
    sampling = tiny.config().sampling
    sampling.sampler = "huen"
    with pytest.raises(UserError, match="'huen'.*ddpm, ddim, heun, dpmpp"):
        build.sampler(sampling)
