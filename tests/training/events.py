"""What a run wrote for TensorBoard, read without it."""

import struct

from tensorboardX.proto.event_pb2 import Event


def read(folder):
    """{tag: {step: value}} of the event files in a folder; a picture's value is 0."""
    found = {}
    for path in folder.iterdir():
        content, position = path.read_bytes(), 0
        while position < len(content):
            (length,) = struct.unpack_from("<Q", content, position)
            event = Event.FromString(content[position + 12 : position + 12 + length])
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
            position += length + 16
    return found
