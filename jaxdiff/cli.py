"""Command lines: flags that are checked like settings, and error messages of one sentence.

A command is a module that imports nothing heavy, with a function

    def main():
        parser = cli.Parser(__doc__)
        cli.add_flag(parser, "out", help="Folder of the results")
        cli.run(_job, parser)

where `_job(args)` imports what it needs; so `--help` and a misspelt flag are answered at once.
"""

import argparse
import gc
import logging as python_logging
import os
import re
import signal
import sys
import traceback

from absl import logging

from jaxdiff import stopping
from jaxdiff.config.fields import checked_value, expected, hints, meanings, nearest
from jaxdiff.config.overrides import config_from, described, parsed
from jaxdiff.config.serialization import import_modules, to_dict
from jaxdiff.errors import UserError, user_errors
from jaxdiff.parallel import watchdog

SECONDS_TO_SAY_WHY = 5.0  # in which a process that failed writes why
ABOUT = "about.txt"  # in a folder of compiled programs
# What errors of a computation, or of a barrier, say where another process has ended.
COMPUTING = ("JaxRuntimeError", "TimeoutError")
LOST = re.compile(r"Gloo|NCCL|connection|socket closed|barrier|heartbeat|peer", re.IGNORECASE)


def run(main, parser, arguments=None):
    """Calls `main(args)` with the parsed flags; a UserError ends in a sentence and status 1.

    Ctrl-C ends in a sentence and status 130, SIGTERM in one and 143.

    Args:
      main: what the command does.
      parser: a Parser.
      arguments: of the command line; by default those of this program.
    """
    # Importing and tracing make many objects that stay: to look for garbage among them at Python's
    # own rate takes a sixth of a start.
    gc.set_threshold(100_000, 20, 100)
    stopping.listen()
    _silence_libraries()
    try:
        main(parser.parse_args(arguments))
    except UserError as error:
        _end(1, error, error.is_elsewhere)
    except KeyboardInterrupt:
        _end(128 + signal.SIGINT, "Stopped by Ctrl-C.")
    except Exception as error:
        if watchdog.place() is None:
            raise
        what = f"{type(error).__name__}: {str(error)[:500]}"
        if is_lost := type(error).__name__ in COMPUTING and bool(LOST.search(what)):
            what = f"Another process was lost in a computation or at a barrier ({what})."
        is_elsewhere = is_lost or watchdog.other() is not None
        if not is_elsewhere:
            traceback.print_exc()
        _end(1, what, is_elsewhere)


def _end(status, sentence, is_elsewhere=False):
    """Prints why this program ends, and ends it; where several processes run it, all of them."""
    print(watchdog.line(sentence), file=sys.stderr, flush=True)
    if watchdog.place() is None:
        sys.exit(status)
    if is_elsewhere and (cause := watchdog.other(wait=SECONDS_TO_SAY_WHY)):
        watchdog.follow(cause)
    watchdog.end(status, sentence)


def _silence_libraries():
    """Libraries log less than errors, and orbax's threads errors that are raised as well."""
    logging.set_verbosity(logging.ERROR)
    logging.get_absl_logger().addFilter(lambda r: "/orbax/" not in r.pathname)
    python_logging.getLogger("asyncio").setLevel(python_logging.CRITICAL)


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are UserErrors and whose booleans are --NAME and --noNAME.

    Arguments:
      description: what the command does; its lines are printed as they are.
    """

    def __init__(self, description):
        self._names = []  # of all flags, with their dashes
        self._hints = {}  # {name: type of the value}
        self._config = None
        self._takes_config = self._needs_config = False
        super().__init__(
            prog=os.path.basename(sys.argv[0]),
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def add_argument(self, *names, **settings):
        """As argparse's."""
        action = super().add_argument(*names, **settings)
        self._names += action.option_strings
        return action

    def parse_args(self, arguments=None):
        """The flags by name, and `config` if `add_config` was called.

        Raises:
          UserError: for flags that are unknown, have no value or a wrong one.
        """
        arguments = sys.argv[1:] if arguments is None else arguments
        if self._takes_config:
            self._config, arguments = config_from(arguments)
        args, others = self.parse_known_args([self._plain(text) for text in arguments])
        if others:
            raise UserError(f"The argument {others[0]} was not expected: flags begin with --.")
        for name, hint in self._hints.items():
            setattr(args, name, _read(f"--{name}", getattr(args, name), hint))
        import_modules(getattr(args, "imports", ()))
        if self._takes_config:
            args.config = self._config
            if args.config is None and (self._needs_config or args.print_config):
                raise UserError("--config is missing: give a config file such as configs/NAME.py.")
            if args.print_config:
                _print_config(args.config)
        return args

    def _plain(self, text):
        """An argument as argparse knows it: --NAME for --NAME=true, --noNAME for --NAME=false."""
        name, equals, value = text.partition("=")
        if not name.startswith("--") or name == "--":
            return text
        if name not in self._names:
            raise UserError(f"There is no flag {name}: {nearest(name, self._names)}")
        if not equals or f"--no{name[2:]}" not in self._names:
            return text
        return name if parsed(value, bool, name) else f"--no{name[2:]}"

    def format_help(self):
        """As argparse's, and every field of the config that is given."""
        lines = described(self._config) if self._config else []
        return "\n".join([super().format_help(), *lines, ""])

    def error(self, message):
        """Raises what argparse has found as a UserError."""
        text = message.removeprefix("argument ")
        raise UserError(f"The command line cannot be read ({text}): --help lists what it takes.")


def _read(name, value, hint):
    """What a flag's text, or each of its texts, stands for; its default as it is."""
    if isinstance(value, list):
        return [_read(name, each, hint) for each in value]
    return checked_value(name, parsed(value, hint, name), hint) if isinstance(value, str) else value


def _print_config(config):
    from jaxdiff.files import json_text

    print(json_text(to_dict(config)))
    sys.exit(0)


def add_config(parser, required=True):
    """Lets a command take a run's config, as `args.config`: --config, its fields, --print_config.

    Args:
      parser: a Parser.
      required: whether the config must be given; else `args.config` may be None.
    """
    parser._takes_config, parser._needs_config = True, required
    add_flag(
        parser,
        "config",
        help="Config file of the run, or the name of one that is installed with jaxdiff; "
        "--config.SECTION.FIELD=VALUE sets a field of it, and with --help lists them all",
    )
    add_flag(parser, "print_config", bool, False, "Print the config as config.json has it, and end")


def add_imports(parser):
    """Adds --import MODULE, repeatable: modules with kinds of networks, data and so on."""
    parser.add_argument(
        "--import",
        dest="imports",
        metavar="MODULE",
        action="append",
        default=[],
        help="Module with kinds of networks, data and so on that the run uses; repeatable",
    )


def add_flag(parser, name, hint=str, default=None, help="", repeated=False):
    """Adds a flag --NAME, whose value is read and checked as a setting of that type is.

    Args:
      parser: a Parser.
      name: of the flag, and of the attribute of the parsed arguments.
      hint: type of the value, such as int, bool, Literal["a", "b"], Annotated[int, Range(1, 100)],
        or tuple[float, ...], which is written with commas.
      default: the value where none is given.
      help: what it means.
      repeated: whether it may be given several times; the value is then a list.
    """
    details = [] if hint in (str, bool) else [expected(hint)]
    details += [] if default in (None, "", (), False) else [f"default: {default}"]
    text = f"{help} ({'; '.join(details)})" if details else help
    text = text.replace("%", "%%")  # which argparse would format
    if hint is bool:
        names = f"--{name}", f"--no{name}"
        parser.add_argument(*names, dest=name, action=_Boolean, nargs=0, default=default, help=text)
        return
    parser._hints[name] = hint
    parser.add_argument(
        f"--{name}",
        dest=name,
        metavar="VALUE",
        action="append" if repeated else "store",
        default=[] if repeated else default,
        help=text,
    )


class _Boolean(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, option_string == self.option_strings[0])


def add_settings(parser, cls, names=None, prefix=""):
    """Adds a flag --[PREFIX]FIELD for fields of a class of settings, None where it is not given.

    Args:
      parser: a Parser.
      cls: the class.
      names: of the fields; by default all.
      prefix: of the flags' names.
    """
    for name in names or hints(cls):
        add_flag(
            parser, prefix + name, hints(cls)[name], help=meanings(cls).get(name, "").rstrip(".")
        )


def require(name, value, example):
    """The value of a flag that must be given."""
    if not value:
        raise UserError(f"--{name} is missing: give {example}.")
    return value


def add_compilation_cache(parser):
    """Adds --compilation_cache FOLDER."""
    add_flag(
        parser,
        "compilation_cache",
        help="Folder where compiled programs are kept for the next start, which all hosts read and "
        "nobody else may write, such as gs://bucket/xla; default: one in the user's cache folder",
    )


def add_distributed(parser):
    """Adds --distributed and --nodistributed, None where neither is given; --compilation_cache."""
    add_flag(
        parser,
        "distributed",
        bool,
        None,
        "Require the other processes that run this program with this one; --nodistributed: run "
        "alone. By default they are joined where variables of JAX, Open MPI, Slurm or a TPU name "
        "them",
    )
    add_compilation_cache(parser)


def start_jax(distributed=None, compilation_cache=None):
    """Readies JAX: compiled programs are kept for the next start, and other processes are joined.

    Args:
      distributed: None: joins the processes that cluster.find names; True: requires that it names
        some; False: this process is alone.
      compilation_cache: text of the folder of compiled programs, which may be an address. JAX
        reads it in all processes and writes it in process 0. None: the one that JAX is set to use,
        or else one in the user's cache folder.

    Returns:
      The Cluster of the processes that were joined; None: there are no others.

    Raises:
      UserError: if the others are required and not named, or not found; if the folder cannot be
        opened.
    """
    cluster = None if distributed is False else _find_cluster()
    if distributed and cluster is None:
        raise UserError(
            "--distributed finds no other processes: start several by srun, mpirun or on the hosts "
            "of a TPU, or set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID."
        )
    _set_cache(compilation_cache)
    from jaxdiff.parallel import processes

    with user_errors():
        processes.initialize(cluster)
    return cluster


def start_jax_alone(compilation_cache=None):
    """Readies JAX as start_jax does, but never joins other processes.

    Where several share a host, each takes its own of the GPUs.

    Returns:
      What cluster.find names: a Cluster, or None.
    """
    cluster = _find_cluster()
    _set_cache(compilation_cache)
    import jax

    from jaxdiff.parallel.cluster import devices_of

    with user_errors():
        devices = devices_of(cluster)
    if devices is not None:
        jax.config.update("jax_cuda_visible_devices", ",".join(map(str, devices)))
    return cluster


def _find_cluster():
    from jaxdiff.parallel import cluster

    with user_errors():
        return cluster.find()


def _set_cache(folder):
    import jax

    if folder is not None:
        from jaxdiff import files

        folder = files.absolute(files.parse_path(folder, "--compilation_cache"))
        if not files.exists(folder / ABOUT):  # may be read only, if it is
            files.make_folder(folder)
            files.write_text(folder / ABOUT, "Programs that jaxdiff has compiled, kept by JAX.\n")
        jax.config.update("jax_compilation_cache_dir", os.fspath(folder))
    if jax.config.jax_compilation_cache_dir is None:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        jax.config.update("jax_compilation_cache_dir", os.path.join(home, "jaxdiff", "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
