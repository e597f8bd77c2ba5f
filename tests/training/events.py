"""What a run wrote for TensorBoard, read without it and as TensorBoard does."""

import struct

from tensorboardX.proto.event_pb2 import Event, SessionLog


def read(folder):
    """{tag: {step: value}} of the event files in a folder; a picture's value is 0.

    Files follow one another by name. A START drops what came before of its step and later ones.

    Raises:
      AssertionError: for two values of one tag and step, neither of them dropped.
    """
    found = {}
    for event in (event for path in sorted(folder.iterdir()) for event in events(path)):
        if event.session_log.status == SessionLog.START:
            found = {
                tag: {step: value for step, value in values.items() if step < event.step}
                for tag, values in found.items()
            }
        for value in event.summary.value:
            values = found.setdefault(value.tag, {})
            assert event.step not in values, f"{value.tag} of step {event.step} is there twice"
            values[event.step] = value.simple_value
    return {tag: values for tag, values in found.items() if values}


def events(path):
    """Every whole event of a file, which may end within one."""
    content, position = path.read_bytes(), 0
    while position + 12 <= len(content):
        (length,) = struct.unpack_from("<Q", content, position)
        if position + length + 16 > len(content):
            return
        yield Event.FromString(content[position + 12 : position + 12 + length])
        position += length + 16
