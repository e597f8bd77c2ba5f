"""A run's folder, and references to the networks in it: `RUN[@STEP][:ema=LENGTH,dropout=RATE]`.

config.json           every setting, and the package's version
checkpoints/<step>/   training state: params, optimizer, EMA, step and data position
snapshots/<step>/     the EMA alone, kept permanently
ema/<length>/<step>/  averages of other lengths, rebuilt from the snapshots
previews/<step>.png   samples
evaluation.csv        metrics of samples and the loss on held-out images, by step
metrics.csv           scalars of training, by step
tensorboard/          scalars and images
"""

import contextlib
import dataclasses
import re
import time

import jax
from etils import epath

from jaxdiff import files
from jaxdiff.checkpoints import checkpointer, posthoc_ema
from jaxdiff.checkpoints.power_ema import profile_name
from jaxdiff.claims import in_all, in_first, lock
from jaxdiff.config import from_dict, replaced, to_dict
from jaxdiff.errors import UserError
from jaxdiff.locks import LOCK, is_a_file
from jaxdiff.numbers import whole
from jaxdiff.parallel import processes
from jaxdiff.parallel.mesh import placed
from jaxdiff.version import __version__

KEEP_CHECKPOINTS = 3
# Network disks show a host its folders as they were up to a minute ago (NFS: acdirmax 60).
SECONDS_TO_SEE = 75.0
FORM = "RUN@STEP:ema=0.12,dropout=.05"
OPTIONS = ("ema", "dropout")  # of a reference
EDITED = 'restore it from a copy or, if you changed it on purpose, take the line "checksum" out'


@dataclasses.dataclass(frozen=True)
class Run:
    """Where the parts of a run are.

    Attributes:
      folder: the run's.
    """

    folder: epath.Path

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
    def evaluation(self):
        """Table of what periodic evaluation measured."""
        return self.folder / "evaluation.csv"

    @property
    def metrics(self):
        """Table of the scalars of training."""
        return self.folder / "metrics.csv"

    @property
    def tensorboard(self):
        """Folder of event files."""
        return self.folder / "tensorboard"

    def exists(self):
        """Whether the folder is a run's."""
        return files.exists(self.config_file)

    def config(self):
        """The run's RunConfig.

        Raises:
          UserError: if the folder is not a run's, or its config cannot be used.
        """
        if not self.exists():
            raise UserError(
                f"{self.folder} is not the folder of a run, as it has no config.json: give the "
                "--workdir of a training run."
            )
        values = files.read_json(self.config_file, advice=EDITED)
        values.pop("jaxdiff", None)
        return from_dict(values, str(self.config_file))

    def write_config(self, config):
        """Writes config.json; in one process."""
        files.write_json(self.config_file, {"jaxdiff": __version__, **to_dict(config)})

    @contextlib.contextmanager
    def held(self, flag):
        """Holds the folder for this program while the context is open; makes it if need be.

        A folder in which nothing is at the end is removed.

        Args:
          flag: where the folder was given, such as "--workdir".

        Raises:
          UserError: if another program holds it, or it cannot be made; if it is to be made and has
            a name that references could not be written with; if not all hosts share it.
        """
        in_first(self._make, flag)
        try:
            with lock(self.folder / LOCK, f"The run {self.folder}"):
                in_all(self._require_shared, flag)
                yield self
        finally:
            files.remove_if_empty(self.folder)

    def _make(self, flag):
        if not self.exists() and re.search("[@:]", self.folder.name):
            raise UserError(
                f"{flag} is {self.folder}, and a run's folder may not have @ or : in its name, as "
                "steps and options are written with them: choose another name."
            )
        files.make_folder(self.folder)

    def _require_shared(self, flag):
        """Refuses a folder that is another one on each host, where each would write a part."""
        if not is_a_file(self.folder / LOCK):
            return
        until = time.monotonic() + SECONDS_TO_SEE
        while not files.exists(self.folder / LOCK):
            if time.monotonic() > until:
                raise UserError(
                    f"{flag} is {self.folder}, and process {processes.index()} does not see the "
                    f"file {LOCK} that process 0 has written there: give a folder that all hosts "
                    "share, on a network disk or in a bucket."
                )
            time.sleep(1)

    def places(self):
        """{step: folder} of every step whose EMA can be read, snapshots before checkpoints."""
        return {
            step: folder
            for folder in (self.checkpoints, self.snapshots)
            for step in checkpointer.complete_steps(folder)
        }


@contextlib.contextmanager
def new_run(out):
    """Holds the folder of --out, in which a run is made; what fails leaves no snapshot there.

    Args:
      out: an epath.Path.

    Raises:
      UserError: if it is not empty, cannot be made, or another program holds it.
    """
    with Run(out).held("--out") as run:
        in_first(_require_empty, out)
        try:
            yield run
        except BaseException:
            if processes.is_first():
                files.remove_tree(run.snapshots)
            raise


def _require_empty(out):
    if {*files.names(out)} - {LOCK}:
        raise UserError(f"{out} is not empty, and nothing is overwritten: choose another --out.")


def export(plan, out):
    """Makes a run whose one snapshot holds the averages of a plan, as if it had tracked them.

    Raises:
      UserError: if `out` is not empty, or cannot be written; then it is no run.
    """
    config = replaced(
        Run(plan.folder).config(),
        {"training.power_ema": plan.lengths, "training.snapshot_dtype": "float32"},
    )
    names = [profile_name(length) for length in plan.lengths]
    with new_run(out) as run:
        totals = posthoc_ema.rebuild(plan, posthoc_ema.template(plan))
        items = {"ema": dict(zip(names, totals, strict=True))}
        with contextlib.closing(checkpointer.Checkpointer(run.snapshots)) as snapshots:
            snapshots.save(plan.step, items, {"ema": names})
        # Last: the folder is a run once the averages are there.
        in_first(run.write_config, config)


@dataclasses.dataclass(frozen=True)
class Reference:
    """One network of one run.

    Attributes:
      run: the run.
      step: of training.
      folder: the folder of steps that holds it: the run's checkpoints or snapshots.
      ema: length (sigma_rel) of the average, rebuilt if it is not stored; None: the run's first.
      dropout: rate that the network is sampled with, in [0, 1).
    """

    run: Run
    step: int
    folder: epath.Path
    ema: float | None = None
    dropout: float = 0.0

    def __str__(self):
        options = {"ema": self.ema, "dropout": self.dropout or None}
        given = ",".join(f"{name}={value}" for name, value in options.items() if value is not None)
        return f"{self.run.folder}@{self.step}" + (f":{given}" if given else "")


def resolve(text, step=None, ema=None, dropout=None):
    """Finds what a reference names.

    Args:
      text: `RUN[@STEP][:ema=LENGTH,dropout=RATE]`. Without a step it is the latest, with a length
        the latest snapshot.
      step, ema, dropout: in place of those in the text; None leaves them.

    Raises:
      UserError: if there is no such run or step, which says what steps there are; for an option
        that there is not; for an average that cannot be rebuilt.
    """
    run, in_text, options = _split(text)
    run.config()
    given = {"ema": ema, "dropout": dropout}
    values = _parse_options(text, options) | {k: v for k, v in given.items() if v is not None}
    dropout = values.get("dropout", 0.0)
    if not 0 <= dropout < 1:
        raise UserError(f"The reference {text} has dropout={dropout:g}: it must be in [0, 1).")
    step = in_text if step is None else step
    if step is not None and whole(step) is None:
        raise UserError(f"{run.folder} has no step {step}: write a number, as in {FORM}.")
    step = None if step is None else whole(step)
    if (ema := values.get("ema")) is not None:
        plan = posthoc_ema.plan(run.folder, (ema,), step)
        posthoc_ema.check(plan)
        return Reference(run, plan.step, run.snapshots, ema, dropout)
    places = run.places()
    if not places:
        raise UserError(f"{run.folder} has no checkpoints or snapshots yet: train it further.")
    step = max(places) if step is None else step
    if step not in places:
        steps = ", ".join(map(str, sorted(places)))
        raise UserError(f"{run.folder} has no step {step}: it has {steps}.")
    return Reference(run, step, places[step], dropout=dropout)


def _split(text):
    """(Run, step or None, options or None) of a reference, all text.

    The run ends at the first @ or : after the last slash.
    """
    match = re.fullmatch(r"(.*/[^/@:]+|[^/@:]+|.*/)(?:@([^@:]*))?(?::(.*))?", str(text))
    if match is None:
        raise UserError(f"The reference {str(text)!r} cannot be read: write {FORM}.")
    return Run(files.parse_path(match[1], "The reference")), match[2], match[3]


def _parse_options(text, options):
    """{name: number} of `name=number`, separated by commas."""
    values = {}
    for option in options.split(",") if options is not None else ():
        name, _, value = option.partition("=")
        if name not in OPTIONS or name in values:
            raise UserError(
                f"The reference {text} has the option {name!r}: the options are "
                f"{', '.join(f'{known}=VALUE' for known in OPTIONS)}, each once."
            )
        try:
            values[name] = float(value)
        except ValueError:
            raise UserError(
                f"The reference {text} has {name}={value}, which is no number: write {FORM}."
            ) from None
    return values


def digest(reference):
    """Text that identifies a reference's averages: those of two runs of one name differ.

    Raises:
      UserError: if the step's files are corrupt.
    """
    try:
        return checkpointer.digest(checkpointer.read_meta(reference.folder, reference.step))
    except checkpointer.CorruptCheckpoint as error:
        raise checkpointer.corrupt(reference.folder, reference.step, error) from None


def read_ema(reference, shapes, shardings):
    """The averaged parameters that a reference names, float32 whatever they are stored as.

    Args:
      reference: from `resolve`.
      shapes, shardings: of the network's parameters.

    Raises:
      UserError: if the files are corrupt.
    """
    template = placed(shapes, shardings)
    if reference.ema is not None:
        return posthoc_ema.average(reference.run.folder, reference.ema, reference.step, template)
    try:
        meta = checkpointer.in_all(checkpointer.read_meta, reference.folder, reference.step)
        profile, dtype = meta["ema"][0], meta.get("dtype", "float32")
        stored = jax.tree.map(lambda leaf: leaf.update(dtype=dtype), template)
        items, _ = checkpointer.read(
            reference.folder, reference.step, {"ema": {profile: stored}}, partly=True
        )
    except checkpointer.CorruptCheckpoint as error:
        raise checkpointer.corrupt(reference.folder, reference.step, error) from None
    return jax.tree.map(lambda leaf: leaf.astype("float32"), items["ema"][profile])
