"""Flags as values: types, bounds, booleans, and sentences for what is wrong."""

import signal
from typing import Annotated, Literal

import pytest

from jaxdiff import cli
from jaxdiff.config import DDIM, Range
from jaxdiff.errors import UserError


@pytest.fixture
def parser():
    made = cli.Parser("Does something.")
    made.add_argument("run", help="the folder of a run")
    cli.add_flag(made, "weights", tuple[float, ...], ())
    cli.add_flag(made, "count", Annotated[int, Range(1, 10)], 5, "How many, in %")
    cli.add_flag(made, "metric", Literal["fd", "kd"], "fd")
    cli.add_flag(made, "guide", repeated=True)
    cli.add_flag(made, "weight", float, repeated=True)
    cli.add_settings(made, DDIM, ("steps", "eta", "clip"), prefix="my_")
    cli.add_config(made, required=False)
    return made


def test_flags_are_values_of_their_types(parser):
    line = "--weights 1,2.5 --count=7 a --weight 1 --weight -2 --my_steps ddim25 --my_eta=1"
    args = parser.parse_args(line.split())
    assert (args.run, args.weights, args.count, args.metric) == ("a", (1.0, 2.5), 7, "fd")
    assert (args.guide, args.weight) == ([], [1.0, -2.0])
    assert (args.my_steps, args.my_eta, args.my_clip, args.config) == ("ddim25", 1.0, None, None)
    assert parser.parse_args(["a", "--my_steps=25"]).my_steps == 25


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--my_clip", True),
        ("--nomy_clip", False),
        ("--my_clip=false", False),
        ("--my_clip=True", True),
    ],
)
def test_booleans_take_no_value_from_what_follows(parser, flag, value):
    args = parser.parse_args([flag, "a"])
    assert (args.my_clip, args.run) == (value, "a")


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("a --count=11", "--count is 11"),
        ("a --count=many", "--count is many"),
        ("a --metric=mse", "fd or kd"),
        ("a --weights=1,x", "--weights is 1,x"),
        ("a --wights=1", "did you mean --weights?"),
        ("a --my_clip=maybe", "maybe"),
        ("a --count", "--count"),
        ("a b", "b"),
        ("", "run"),
        ("a --print_config", "--config"),
        ("a --config.seed=1", "--config"),
        ("a --config=digits --config.sed=1", "seed"),
    ],
)
def test_what_cannot_be_is_refused(parser, line, word):
    with pytest.raises(UserError, match=word):
        parser.parse_args(line.split())


def test_a_config_is_taken_out_of_the_line(parser):
    args = parser.parse_args(["--config", "digits", "a", "--config.seed", "4"])
    assert (args.config.seed, args.run) == (4, "a")


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (UserError("One\n sentence."), 1, "One sentence."),
        (KeyboardInterrupt(), 130, "Ctrl-C"),
    ],
)
def test_errors_of_users_end_in_a_line_and_a_status(parser, error, status, words, capsys):
    def main(args):
        raise error

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop:
        cli.run(main, parser, ["a"])
    signal.signal(signal.SIGTERM, before)
    assert stop.value.code == status
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert words in said


def test_other_errors_are_bugs_and_keep_their_traceback(parser):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda args: 1 / 0, parser, ["a"])
    signal.signal(signal.SIGTERM, before)
