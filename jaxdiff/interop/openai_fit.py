"""Whether a released state dict fits the options it is imported with, and what differs if not."""

import re

from jaxdiff.errors import UserError

SHOWN = 5


def check_fit(found, expected):
    """Compares the tensors of a state dict with those that a network has.

    Args:
      found, expected: {name: shape}.

    Raises:
      UserError: if they differ; it says which options must be others, as far as that can be told,
        and names the first few tensors.
    """
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is unexpected" for name in found if name not in expected]
    problems += [
        f"{name} is {list(found[name])} and not {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if not problems:
        return
    there, here = _signs(found), _signs(expected)
    differing = [
        f"{option} is {there[option]} by its tensors and {here[option]} by the options"
        for option in here
        if there[option] != here[option]
    ]
    if len(problems) > SHOWN:
        problems[SHOWN:] = [f"and {len(problems) - SHOWN} more"]
    why = f": {', '.join(differing)}" if differing else ""
    raise UserError(f"The state dict does not fit the options{why} ({'; '.join(problems)}).")


def _signs(shapes):
    """What {name: shape} tells of a network's options, by the options' names; None: nothing."""

    def length(name, axis=0):
        return shapes[name][axis] if len(shapes.get(name, ())) > axis else None

    def numbers(pattern):
        """Which input blocks have a tensor whose name goes on like that."""
        matches = (re.match(rf"input_blocks\.(\d+)\.{pattern}", name) for name in shapes)
        return sorted({int(match[1]) for match in matches if match})

    blocks = numbers("")
    learned, gaps = numbers(r"0\.op\."), len(blocks) != max(blocks, default=-1) + 1
    modulation = length("input_blocks.1.0.emb_layers.1.bias")
    modulated = length("input_blocks.1.0.out_layers.0.bias")
    widths = [length(f"input_blocks.{i}.0.out_layers.0.bias") for i in blocks]
    pool = pool_of(shapes)
    return {
        "model_channels": length("time_embed.0.weight", 1),
        "in_channels (twice for super-resolution)": length("input_blocks.0.0.weight", 1),
        "pool": pool,
        "out_channels": length(f"{OUT.get(pool, 'out.2')}.bias"),
        "num_classes": length("label_emb.weight"),
        "len(channel_mult) * (num_res_blocks + 1)": len(blocks) and blocks[-1] + 1,
        "the widest level (channel_mult)": max((w for w in widths if w), default=None),
        "attention_resolutions (input blocks)": numbers(r"1\.qkv\."),
        "resblock_updown": not learned and not gaps,
        "conv_resample": not gaps,
        "use_scale_shift_norm": modulation != modulated,
        "image_size (positions of the pool)": length("out.2.positional_embedding", 1),
    }


OUT = {"attention": "out.2.c_proj", "adaptive": "out.3", "spatial_v2": "out.3"}


def pool_of(shapes):
    """The head of a classifier; None for a diffusion model."""
    if "out.2.c_proj.weight" in shapes:
        return "attention"
    if "out.3.weight" in shapes:
        return "spatial_v2" if "out.1.weight" in shapes else "adaptive"
    return "spatial" if len(shapes.get("out.2.weight", ())) == 2 else None
