"""A run's folder, and references to the networks in it: `RUN` and `RUN@STEP`.

config.json           every value of the config, and the package's version
checkpoints/<step>/   training state: params, optimizer, EMA, step and data position
snapshots/<step>/     the EMA alone, kept for ever
previews/<step>.png   samples
tensorboard/          scalars and images
"""

import dataclasses
import pathlib
import re

from jaxdiff import config as config_lib
from jaxdiff.checkpoints import store
from jaxdiff.errors import UserError
from jaxdiff.parallel.mesh import placed

KEEP_CHECKPOINTS = 3


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

    def config(self):
        """The run's config.

        Raises:
          UserError: if the folder is not a run's.
        """
        try:
            text = self.config_file.read_text()
        except OSError:
            raise UserError(
                f"{self.folder} is not the folder of a run, as it has no config.json: give the "
                "--workdir of a training run."
            ) from None
        return config_lib.from_json(text, self.config_file)

    def places(self):
        """{step: folder} of every step whose EMA can be read, snapshots before checkpoints."""
        return {
            step: folder
            for folder in (self.checkpoints, self.snapshots)
            for step in store.complete_steps(folder)
        }


@dataclasses.dataclass(frozen=True)
class Reference:
    """One network of one run.

    Attributes:
      run: the run.
      step: of training.
      folder: the store that holds the step.
    """

    run: Run
    step: int
    folder: pathlib.Path

    def __str__(self):
        return f"{self.run.folder}@{self.step}"


def resolve(text):
    """Finds what a reference on the command line names.

    Args:
      text: `RUN`, the latest step, or `RUN@STEP`.

    Raises:
      UserError: if there is no such run or step; says which steps there are.
    """
    match = re.fullmatch(r"(?P<run>.+?)(@(?P<step>[^@/]*))?", text)
    if match is None:
        raise UserError("The reference to a model is empty: give a run's folder.")
    run = Run(pathlib.Path(match["run"]))
    run.config()
    places = run.places()
    if not places:
        raise UserError(f"{run.folder} has no checkpoints or snapshots yet: train it further.")
    if match["step"] is None:
        step = max(places)
    elif not (match["step"].isdigit() and int(match["step"]) in places):
        steps = ", ".join(map(str, sorted(places)))
        raise UserError(f"{run.folder} has no step {match['step']}: it has {steps}.")
    else:
        step = int(match["step"])
    return Reference(run, step, places[step])


def read_ema(reference, shapes, shardings):
    """The averaged parameters that a reference names.

    Args:
      reference: from `resolve`.
      shapes, shardings: of the network's parameters.

    Raises:
      UserError: if the files are damaged.
    """
    try:
        (profile, *_) = store.read_meta(reference.folder, reference.step)["ema"]
        template = {"ema": {profile: placed(shapes, shardings)}}
        items, _ = store.read(reference.folder, reference.step, template)
    except store.Damaged as error:
        raise UserError(
            f"{reference.folder / str(reference.step)} is damaged: {error}; use another step."
        ) from None
    return items["ema"][profile]
