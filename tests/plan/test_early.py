"""What is read from libtpu's dump."""

from jaxdiff.plan import early

BUFFERS = """BufferAssignment:
allocation 0: size 512, page 0, thread-local:
 value: <1 a>
allocation 1: size 4096, page 0, parameter 0, shape |f32[1024]| at ShapeIndex {}, maybe-live-out:
allocation 2: size 2048, page 0, parameter 1, shape |f32[512]| at ShapeIndex {}:
allocation 3: size 1024, page 0, maybe-live-out:
allocation 4: size 9000, page 0, preallocated-temp:
allocation 5: size 7000, page 0, color 1, preallocated-temp:
allocation 6: size 64, page 0, constant:
"""


def test_sizes_of_buffers():
    assert early.sizes(BUFFERS) == {
        "argument": 4096 + 2048,
        "output": 4096 + 1024,
        "alias": 4096,
        "temp": 9000,
        "generated_code": 0,
    }
