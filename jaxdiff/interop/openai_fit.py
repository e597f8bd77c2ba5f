"""Whether a released state dict fits the options it is imported with, and what differs if not."""

from jaxdiff.errors import UserError

SHOWN = 5


def check_fit(found, expected):
    """Compares the tensors of a state dict with those that a network has.

    Args:
      found, expected: {name: shape}.

    Raises:
      UserError: if they differ; it names a few tensors, and the options that must be others.
    """
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is not expected" for name in found if name not in expected]
    problems += [
        f"{name} is {list(found[name])} and should be {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if not problems:
        return
    there, here = _signs(found), _signs(expected)
    causes = [
        f"{option} is {there[option]} by the state dict and {here[option]} by the options"
        for option in here
        if there[option] != here[option]
    ]
    more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    raise UserError(
        f"The state dict does not fit the options: {'; '.join(causes or ['cannot tell why'])} "
        f"({'; '.join(problems[:SHOWN])}{more})."
    )


def _signs(shapes):
    """What can be told of a network's options from {name: shape}, in the options' names."""

    def length(name, axis):
        return shapes[name][axis] if len(shapes.get(name, ())) > axis else None

    attended = {name.rpartition(".")[0] for name in shapes if name.endswith(".qkv.weight")}
    ups = {name.split(".")[1] for name in shapes if name.startswith("output_blocks.")}
    modulation = length("input_blocks.1.0.emb_layers.1.bias", 0)
    width = length("input_blocks.1.0.out_layers.0.bias", 0)
    heads = {
        "positional_embedding": "out.2.positional_embedding",
        "adaptive": "out.3.weight",
    }
    return attended, ups, modulation, width, heads
