"""JSON text that carries a checksum of its own content."""

import hashlib
import json

from jaxdiff.errors import UserError

CHECKSUM = "checksum"  # the field that holds the SHA-256 of the others
RESTORE = "restore the file from a copy"


def json_text(values):
    """A dict as indented JSON text, with its checksum."""
    return json.dumps(with_checksum(values), indent=2) + "\n"


def with_checksum(values):
    """A dict of JSON values, and in the field "checksum" the SHA-256 of the rest."""
    return {**values, CHECKSUM: _checksum(values)}


def parse_json(text, name, keys=(), advice=RESTORE):
    """The dict in a JSON text, without its checksum.

    Args:
      text: the text.
      name: of what holds it, for the message.
      keys: fields that it must have.
      advice: what to do about a corrupt one, to end the message.

    Raises:
      UserError: if it is not JSON, is not a dict with these keys, or holds a checksum that does not
        match.
    """
    try:
        values = json.loads(text, object_pairs_hook=_without_repeats)
        flaw = _flaw(values, keys)
    except RecursionError:
        flaw = "is nested too deeply for JSON"
    except ValueError as error:
        flaw = f"is not JSON ({error})"
    if flaw:
        raise UserError(f"{name} {flaw}: {advice}.")
    return {name: value for name, value in values.items() if name != CHECKSUM}


def _flaw(values, keys):
    """What is wrong with the content of a file, to follow its name; or None."""
    if not isinstance(values, dict):
        return f"holds {type(values).__name__} where a dict of names to values was expected"
    if missing := [name for name in keys if name not in values]:
        return f"lacks {', '.join(missing)}"
    if CHECKSUM in values and values[CHECKSUM] != _checksum(values):
        return "has been changed since it was written, as its checksum says"
    return None


def _without_repeats(pairs):
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("one name occurs twice in one dict")
    return values


def _checksum(values):
    rest = {name: value for name, value in values.items() if name != CHECKSUM}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
