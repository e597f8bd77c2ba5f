"""A run's folder, and references to the networks in it: `RUN[@STEP][:ema=LENGTH,dropout=RATE]`.

config.json           every value of the config, and the package's version
checkpoints/<step>/   training state: params, optimizer, EMA, step and data position
snapshots/<step>/     the EMA alone, kept for ever
ema/<length>/<step>/  averages of other lengths, rebuilt from the snapshots
previews/<step>.png   samples
tensorboard/          scalars and images
"""

import contextlib
import dataclasses
import errno
import pathlib
import re

import jax

from jaxdiff import config as config_lib
from jaxdiff import files, locks
from jaxdiff.checkpoints import checkpointer, posthoc_ema
from jaxdiff.errors import UserError
from jaxdiff.files import local_path
from jaxdiff.locks import LOCK
from jaxdiff.numbers import whole
from jaxdiff.parallel import processes
from jaxdiff.parallel.mesh import placed

KEEP_CHECKPOINTS = 3
FORM = "RUN@STEP:ema=0.12"
OPTIONS = {"ema": float, "dropout": float}  # of a reference: how each value is read


@dataclasses.dataclass(frozen=True)
class Run:
    """Where the parts of a run are.

    Attributes:
      folder: the run's.
    """

    folder: pathlib.Path

    @property
    def config_file(self):
        """The file that makes a folder a run."""
        return self.folder / "config.json"

    @property
    def checkpoints(self):
        """Folder of training states."""
        return self.folder / "checkpoints"

    @property
    def snapshots(self):
        """Folder of averages."""
        return self.folder / "snapshots"

    @property
    def previews(self):
        """Folder of pictures."""
        return self.folder / "previews"

    @property
    def tensorboard(self):
        """Folder of event files."""
        return self.folder / "tensorboard"

    def exists(self):
        """Whether the folder is a run's; UserError if that cannot be told."""
        with checkpointer.reading(self.folder):
            return self.config_file.exists()

    def config(self):
        """The run's config.

        Raises:
          UserError: if the folder is not a run's, or cannot be read.
        """
        if not self.exists():
            raise UserError(
                f"{self.folder} is not the folder of a run, as it has no config.json: give the "
                "--workdir of a training run."
            )
        return config_lib.from_json(self.config_file)

    def write_config(self, config):
        """Writes config.json, in the first process."""
        if processes.is_first():
            with files.replacing(self.config_file) as partial:
                partial.write_text(config_lib.to_json(config))

    def check_name(self, flag):
        """Raises UserError if no reference could be written to a run that is made here."""
        if not self.exists() and re.search("[@:]", self.folder.name):
            raise UserError(
                f"{flag} is {self.folder}, and a run's folder may not have @ or : in its name, as "
                "steps and options are written with them: choose another name."
            )

    @contextlib.contextmanager
    def held(self, flag):
        """Holds the folder for this program while the context is open; makes it if need be.

        Folders that were made for it are removed if nothing has come into them.

        Args:
          flag: where the folder was given, such as "--workdir".

        Raises:
          UserError: if another program holds it, or it cannot be made; if it is to be made and has
            a name that references could not be written with.
        """
        self.check_name(flag)
        made = []
        checkpointer.together(self.folder, self._make, made, advice=f"choose another {flag}")
        try:
            with locks.held(self.folder / LOCK, f"The run {self.folder}"):
                yield self
        finally:
            for folder in made:
                with contextlib.suppress(OSError):  # there is something in it
                    folder.rmdir()

    def _make(self, made):
        if processes.is_first():
            made += [path for path in (self.folder, *self.folder.parents) if not path.exists()]
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except FileExistsError:
                raise NotADirectoryError(errno.ENOTDIR, "Not a directory") from None

    def places(self):
        """{step: folder} of every step whose EMA can be read, snapshots before checkpoints."""
        return {
            step: folder
            for folder in (self.checkpoints, self.snapshots)
            for step in checkpointer.complete_steps(folder)
        }


@contextlib.contextmanager
def new_run(out):
    """Holds the folder of --out, in which a run is made, while the context is open.

    Raises:
      UserError: if it is not empty, cannot be made, or another program holds it.
    """
    run = Run(files.local_path(out, "--out"))
    with run.held("--out"):
        with checkpointer.writing(out, checkpointer.ANOTHER):
            if any(path.name != LOCK for path in run.folder.iterdir()):
                raise UserError(
                    f"{out} is not empty, and nothing is overwritten: choose another --out."
                )
        processes.barrier("new_run")
        yield run


@dataclasses.dataclass(frozen=True)
class Reference:
    """One network of one run.

    Attributes:
      run: the run.
      step: of training.
      folder: the store that holds the step.
      ema: length (sigma_rel) of the average, rebuilt if it is not stored; None: the run's first.
      dropout: rate that the network is sampled with, in [0, 1).
    """

    run: Run
    step: int
    folder: pathlib.Path
    ema: float | None = None
    dropout: float = 0.0

    def __str__(self):
        return _written(self.run, self.step, {"ema": self.ema, "dropout": self.dropout or None})


def resolve(text):
    """Finds what a reference on the command line names.

    Args:
      text: `RUN[@STEP][:ema=LENGTH,dropout=RATE]`. Without a step it is the latest, with a length
        the latest snapshot.

    Raises:
      UserError: if there is no such run or step, which says what steps there are; for an option
        that there is not; for an average that cannot be rebuilt.
    """
    local_path(text, "The reference")
    run, step, options = _split(text)
    run.config()
    values = _parse_options(text, options)
    dropout = values.get("dropout", 0.0)
    if not 0 <= dropout < 1:
        raise UserError(f"The reference {text} has dropout={dropout:g}: it must lie in [0, 1).")
    if "ema" in values:
        return dataclasses.replace(_rebuilt(run, step, values["ema"]), dropout=dropout)
    places = run.places()
    if not places:
        raise UserError(f"{run.folder} has no checkpoints or snapshots yet: train it further.")
    if step is None:
        number = max(places)
    elif whole(step) not in places:
        steps = ", ".join(map(str, sorted(places)))
        raise UserError(f"{run.folder} has no step {step}: it has {steps}.")
    else:
        number = whole(step)
    return Reference(run, number, places[number], dropout=dropout)


def varied(text, step=None, ema=None):
    """The text of a reference with another step or length of average; None leaves them."""
    run, old_step, options = _split(text)
    changed = {"ema": ema} if ema is not None else {}
    values = _parse_options(text, options) | changed
    return _written(run, old_step if step is None else step, values)


def _written(run, step, options):
    at = "" if step is None else f"@{step}"
    given = ",".join(f"{name}={value}" for name, value in options.items() if value is not None)
    return f"{run.folder}{at}" + (f":{given}" if given else "")


def _split(text):
    """(Run, step or None, options or None) of a reference, all text.

    A run's folder may have @ and : in its name: of all ways to read a reference, the one with the
    longest name of a run that exists is meant.
    """
    ends = [match.start() for match in re.finditer("[@:](?!.*/)", text)] + [len(text)]
    runs = (end for end in reversed(ends) if end and Run(pathlib.Path(text[:end])).exists())
    end = next(runs, ends[0])
    if not end:
        raise UserError(f"The reference {text!r} names no run: give a run's folder.")
    match = re.fullmatch(r"(@(?P<step>[^@:]*))?(:(?P<options>.*))?", text[end:])
    if match is None:
        raise UserError(f"The reference {text} cannot be read: write RUN, RUN@STEP or {FORM}.")
    return Run(pathlib.Path(text[:end])), match["step"], match["options"]


def _parse_options(text, options):
    """{name: value} of `name=value`, separated by commas or colons."""
    values = {}
    for option in re.split("[,:]", options) if options is not None else ():
        name, _, value = option.partition("=")
        if name not in OPTIONS:
            raise UserError(
                f"The reference {text} has the option {name!r}, which is unknown: the options are "
                f"{', '.join(f'{known}=VALUE' for known in OPTIONS)}."
            )
        if name in values:
            raise UserError(f"The reference {text} says {name} twice: say it once.")
        try:
            values[name] = OPTIONS[name](value)
        except ValueError:
            raise UserError(
                f"The reference {text} has {name}={value}, which is no number: write {FORM}."
            ) from None
    return values


def _rebuilt(run, step, ema):
    """The reference to an average of any length, if it can be rebuilt."""
    if step is not None and whole(step) is None:
        raise UserError(f"{run.folder} has no step {step}: write a number, as in {FORM}.")
    plan = posthoc_ema.plan(run.folder, (ema,), None if step is None else whole(step))
    posthoc_ema.check(plan)
    return Reference(run, plan.step, run.snapshots, ema)


def digest(reference):
    """Text that tells a reference's step from one of the same name, of a run that was made anew.

    Raises:
      UserError: if the step's files are damaged.
    """
    try:
        return checkpointer.digest(checkpointer.read_meta(reference.folder, reference.step))
    except checkpointer.CorruptCheckpoint as error:
        raise UserError(_about(reference, error)) from None


def _about(reference, error):
    return f"{reference.folder / str(reference.step)} is damaged: {error}; use another step."


def read_ema(reference, shapes, shardings):
    """The averaged parameters that a reference names, float32 whatever they are stored as.

    Args:
      reference: from `resolve`.
      shapes, shardings: of the network's parameters.

    Raises:
      UserError: if the files are damaged.
    """
    template = placed(shapes, shardings)
    if reference.ema is not None:
        return posthoc_ema.average(reference.run.folder, reference.ema, reference.step, template)
    try:
        meta = checkpointer.read_meta(reference.folder, reference.step, ("ema",))
        profile, dtype = meta["ema"][0], meta.get("dtype", "float32")
        stored = jax.tree.map(lambda leaf: leaf.update(dtype=dtype), template)
        items, _ = checkpointer.read(
            reference.folder, reference.step, {"ema": {profile: stored}}, partly=True
        )
    except checkpointer.CorruptCheckpoint as error:
        raise UserError(_about(reference, error)) from None
    return jax.tree.map(lambda leaf: leaf.astype("float32"), items["ema"][profile])
