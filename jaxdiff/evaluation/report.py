"""Values as people read them: a printed table, metrics.json and metrics.csv.

A record holds a value and all that it depends on. Records of later runs are added to the files;
one of the same samples, reference, features and rule takes the place of the earlier one.
"""

import csv
import dataclasses
import hashlib
import io
import math

import numpy as np
from etils import epath

from jaxdiff import claims, files
from jaxdiff.errors import UserError
from jaxdiff.evaluation.images import is_of_sampling
from jaxdiff.evaluation.table import METRICS
from jaxdiff.evaluation.values import Value
from jaxdiff.version import __version__

ADVICE = "move it away, or give another --out"
FIELDS = (  # of a record, the columns of metrics.csv
    *("metric", "value", "deviation", "lowest", "highest", "repeats"),
    *("n", "reference_images", "note", "warning"),
    *("features", "front_end", "weights_sha256"),
    *("samples", "samples_sha256", "seed", "reference", "reference_sha256", "jaxdiff"),
)
KEY = (  # of two records that agree in these the later one is kept
    *("metric", "repeats", "n", "reference_images", "note"),
    *("features", "front_end", "weights_sha256", "samples_sha256", "seed", "reference_sha256"),
)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where results are written.

    Attributes:
      folder: of the files.
      prefix: of their names: empty, or "NAME." beside a file NAME.npz of samples, and beside a
        folder NAME of pictures, of which nearest.png would be one.
    """

    folder: epath.Path
    prefix: str = ""

    def path(self, name):
        """Of a file, such as "metrics.json"."""
        return self.folder / f"{self.prefix}{name}"


def place_of(out, samples):
    """The Place that --out names, or that the text of samples does where that is None.

    Raises:
      UserError: for a folder of something else, files there that are not this command's, and
        samples beside which there is no place.
    """
    if out is not None:
        place = Place(files.parse_path(out, "--out"))
        if files.exists(place.folder) and not files.is_folder(place.folder):
            raise UserError(f"--out is {out}, which is a file: give a folder.")
    else:
        path = files.parse_path(samples, "--samples")
        if not files.exists(path):
            raise UserError(
                f"--samples is {samples}, and there is no such folder or file: check it, or give "
                "--out where it is the name of a dataset."
            )
        path = path if path.name else files.absolute(path)  # as of "."
        if not files.is_folder(path):
            place = Place(path.parent, f"{path.stem}.")
        else:
            place = Place(path) if is_of_sampling(path) else Place(path.parent, f"{path.name}.")
    if not place.prefix:
        for name, kind in claims.OTHERS.items():
            if files.exists(place.folder / name):
                raise UserError(
                    f"The results would be written into {place.folder}, the folder of {kind}: "
                    "give another --out."
                )
    read(place)
    return place


def read(place):
    """The records of a Place, a list of dicts with FIELDS.

    Raises:
      UserError: if metrics.json is corrupt, or there are only other files of these names.
    """
    path = place.path("metrics.json")
    if not files.exists(path):
        if files.exists(place.path("metrics.csv")):
            raise UserError(
                f"{place.path('metrics.csv')} is not of this command, as there is no {path}: "
                f"{ADVICE}."
            )
        return []
    records = files.read_json(path, ("records",), advice=ADVICE)["records"]
    is_ours = isinstance(records, list) and all(
        isinstance(each, dict) and set(each) == set(FIELDS) for each in records
    )
    if not is_ours:
        raise UserError(f"{path} is not a file of this command: {ADVICE}.")
    return records


def write(place, records):
    """Adds records to metrics.json and writes metrics.csv; the first process does."""
    claims.in_first(files.make_folder, place.folder)
    path = place.path("metrics.json")
    with claims.lock(path.with_name(f".{path.name}.lock"), f"The file {path}"):
        claims.in_first(_write, place, records)


def _write(place, records):
    kept = {_key(record): record for record in [*read(place), *records]}
    files.write_json(place.path("metrics.json"), {"records": list(kept.values())})
    text = io.StringIO()
    table = csv.DictWriter(text, FIELDS, lineterminator="\n")
    table.writeheader()
    table.writerows(kept.values())
    files.write_text(place.path("metrics.csv"), text.getvalue())


def _key(record):
    return tuple(str(record[name]) for name in KEY)


# Records.


@dataclasses.dataclass(frozen=True)
class Repeat:
    """The values of one set of samples.

    Attributes:
      samples: name of the set.
      digest: of it.
      seed: of the random subset that was taken; None: all were.
      values: list of Values.
    """

    samples: str
    digest: str
    seed: int | None
    values: list[Value]


def records_of(repeats, reference, extractor):
    """A record of each value, and of several repeats the mean, lowest and highest of each metric.

    Args:
      repeats: Repeats of the same metrics.
      reference: the Reference, or None.
      extractor: the Extractor.
    """
    common = {
        "features": str(extractor).removesuffix(f", {extractor.front_end}"),
        "front_end": extractor.front_end,
        "weights_sha256": extractor.digest,
        "jaxdiff": __version__,
    }
    records = []
    for repeat in repeats:
        where = {"samples": repeat.samples, "samples_sha256": repeat.digest, "seed": repeat.seed}
        for value in repeat.values:
            records.append({**common, **where, **_record(value, reference), "repeats": 1})
    if len(repeats) == 1:
        return [_in_order(record) for record in records]
    seeds = [repeat.seed for repeat in repeats]
    names = dict.fromkeys(repeat.samples for repeat in repeats)
    digests = "\n".join(repeat.digest for repeat in repeats)
    where = {
        "samples": ", ".join(names),
        "samples_sha256": hashlib.sha256(digests.encode()).hexdigest(),
        "seed": None if None in seeds else ",".join(map(str, seeds)),
        "repeats": len(repeats),
    }
    for column in zip(*(repeat.values for repeat in repeats), strict=True):
        records.append({**common, **_record(summary(column), reference), **where})
        found = [value.value for value in column]
        records[-1] |= {"lowest": _number(min(found)), "highest": _number(max(found))}
    return [_in_order(record) for record in records]


def summary(column):
    """Repeats of one value as the Value of their mean, with their standard deviation."""
    found = np.array([value.value for value in column])
    first = next((value for value in column if value.warning), column[0])
    deviation, notes = float(found.std(ddof=1)), {value.note for value in column}
    note = first.note if len(notes) == 1 else ""
    return dataclasses.replace(first, value=float(found.mean()), deviation=deviation, note=note)


def _record(value, reference):
    """What a record has of a Value and of what it was compared with."""
    compares = reference if value.metric in METRICS and METRICS[value.metric].compares else None
    return {
        "metric": value.metric,
        "value": _number(value.value),
        "deviation": _number(value.deviation),
        "n": value.samples,
        "reference_images": value.reference_images,
        "note": value.note,
        "warning": value.warning,
        "reference": compares and compares.name,
        "reference_sha256": compares and compares.digest,
    }


def _in_order(record):
    return {name: record.get(name) for name in FIELDS}


def _number(value):
    """A float as JSON has it: None for one that is not finite."""
    return float(value) if value is not None and math.isfinite(value) else None


# What is printed.


def printed(records):
    """Lines of the records' table, and their warnings, each once."""
    singles = [record for record in records if record["repeats"] == 1]
    repeated = [record for record in records if record["repeats"] > 1]
    yield from table(repeated or singles)
    yield ""
    warnings = {}
    for record in records:
        if record["warning"]:
            warnings.setdefault(record["warning"], {})[record["metric"]] = None
    yield from (f"Warning, {', '.join(names)}: {text}." for text, names in warnings.items())


def table(records):
    """Lines of a table, one for each of these records: all of single sets, or all of repeats."""
    titles = [title(record) for record in records]
    width = max(map(len, titles), default=0)
    rows = zip(titles, records, strict=True)
    return [f"{name:<{width}}  {_shown(record)}".rstrip() for name, record in rows]


def title(record):
    """A value's whole name, such as "fid(inception-2015, tf1-bilinear, n=50000, ref=x.npz)"."""
    parts = [_last(record["features"]), record["front_end"], f"n={record['n']}"]
    if record["reference"]:
        parts.append(f"ref={_last(record['reference'])}")
        parts.append(f"m={record['reference_images'] or 'unknown'}")
    return f"{record['metric']}({', '.join(filter(None, parts))})"


def _last(path):
    """The last part of a path."""
    return path.rstrip("/").rpartition("/")[2] or path


def _shown(record):
    if (repeats := record["repeats"]) > 1:
        numbers = [_text(record[name]) for name in ("value", "lowest", "highest")]
        words = ("mean", f"minimum of {repeats}", f"maximum of {repeats}")
        return "  ".join(f"{w} {n:<9}" for w, n in zip(words, numbers, strict=True))
    deviation = "" if record["deviation"] is None else f"+- {_text(record['deviation'])}"
    note = f"({record['note']})" if record["note"] else ""
    return f"{_text(record['value']):<9}  {deviation:<12}  {note}"


def _text(number):
    return "nan" if number is None else f"{number:.6g}"
