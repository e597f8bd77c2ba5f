"""The config of an ADM network, from the shapes of its tensors.

Shapes say nearly all: widths, levels, blocks, where attention is, labels, the variance, the kinds
of resampling, norm and head. They do not say the size of the images (but where a classifier's
attention pool has a position for each), the number of attention heads, the order of queries, keys
and values, and the noise. Those are options, or what the released network of the same tensors has.
"""

import dataclasses
import math
import re

from jaxdiff import config as config_lib
from jaxdiff.errors import UserError
from jaxdiff.interop.openai_fit import OUT, pool_of
from jaxdiff.interop.openai_released import released, signature

MOST_BLOCKS = 512
HEAD = 64  # channels of an attention head, of most released networks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What shapes do not say, as in a config; None: not given."""

    image_size: int | None = None
    low_res_size: int | None = None
    head_channels: int | None = None
    num_heads: int | None = None
    schedule: str | None = None


class Unclear(Exception):
    """Raised when shapes leave something open; the message names it, within a sentence."""


@dataclasses.dataclass(frozen=True)
class Block:
    """An input block: a residual block, or a layer of its own that lowers the resolution.

    Attributes:
      width: of a residual block's output; 0: it is none.
      has_attention: whether attention follows.
      has_skip: whether its skip path has a projection, as it has where the width changes.
    """

    width: int = 0
    has_attention: bool = False
    has_skip: bool = False


def infer(shapes, options):
    """The config of a network.

    Args:
      shapes: {name: shape} of its state dict.
      options: Options.

    Returns:
      (config, notes): notes are sentences that say what no tensor does.

    Raises:
      UserError: if the tensors are no such network's, or an option is needed.
    """
    try:
        config, levels, enlarges = _from_shapes(shapes)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise _unreadable(f"{error} is missing or of another shape") from None
    except Unclear as error:
        raise _unreadable(error) from None
    rates = [2**level for level in levels]
    known = released(signature(config, rates, enlarges))
    data, assumed = config.data, []
    data.image_size = options.image_size or _image_size(shapes, config, known)
    # A size too small for the levels is refused when the network is built.
    config.model.attention_resolutions = tuple(max(1, data.image_size // rate) for rate in rates)
    if enlarges:
        data.low_res_size = options.low_res_size or (known.low_res_size if known else 0)
        if not data.low_res_size:
            raise UserError(
                "The network enlarges images, and its tensors do not say from which size: give "
                "--low_res_size, such as 64."
            )
    elif options.low_res_size:
        raise UserError(
            f"--low_res_size {options.low_res_size} has no meaning, as the network does not "
            "enlarge images: leave it out."
        )
    assumed += _set_heads(config, levels, options, known)
    config.diffusion.schedule = options.schedule or (known.schedule if known else "linear")
    if not (options.schedule or known):
        assumed.append("the schedule linear of 1000 steps (--schedule)")
    notes = []
    if known:
        notes.append(
            f"Its tensors have the sizes of the released {known.name}, so the rest is taken to be "
            f"as there: images of {known.image_size}, schedule {known.schedule}, attention heads."
        )
    notes += [f"No tensor says, and so it was assumed: {'; '.join(assumed)}."] if assumed else []
    return config, notes


def _unreadable(why):
    return UserError(
        f"The network's sizes cannot be read off its tensors, as {why}: give them with --config."
    )


def _from_shapes(shapes):
    """(config with what the shapes say, numbers of the levels with attention, whether it enlarges).

    Raises:
      Unclear, KeyError, IndexError, TypeError, ValueError: if they do not say it.
    """
    config = config_lib.base()
    data, model = config.data, config.model
    data.name = "imported"  # what it was trained on, no tensor says
    pool = pool_of(shapes)
    stem, channels = shapes["input_blocks.0.0.weight"], shapes["time_embed.0.weight"][1]
    if channels < 1:
        raise Unclear(f"it is {channels} channels wide")
    blocks = _input_blocks(shapes)
    model.channels = channels
    model.resblock_updown = all(block.width for block in blocks)
    model.conv_resample = all(
        f"input_blocks.{i + 1}.0.op.weight" in shapes or block.width
        for i, block in enumerate(blocks)
    )
    outputs = shapes[f"{OUT.get(pool, 'out.2')}.bias"][0]
    enlarges = False
    if pool:
        model.kind, model.pool, data.num_classes, data.channels = (
            "classifier",
            pool,
            outputs,
            stem[1],
        )
        config.training.ema = 0.0
    else:
        data.num_classes = shapes.get("label_emb.weight", (0,))[0]
        enlarges = stem[1] in (2, 6)
        data.channels = stem[1] // 2 if enlarges else stem[1]
        learned = outputs == 2 * data.channels
        if not learned and outputs != data.channels:
            raise Unclear(f"it makes {outputs} channels of {stem[1]}")
        config.diffusion.variance = "learned_range" if learned else "fixed_large"
        config.diffusion.loss = "hybrid" if learned else "simple"
    size = _level_size(shapes, blocks)
    firsts = blocks[::size]
    model.num_res_blocks = size - 1
    model.channel_mult = tuple(_multiple(block.width, channels) for block in firsts)
    first = shapes["input_blocks.1.0.emb_layers.1.bias"][0]
    model.adaptive_norm = first == 2 * firsts[0].width
    return config, [i for i, block in enumerate(firsts) if block.has_attention], enlarges


def _input_blocks(shapes):
    """The Blocks of the encoder, after the stem."""
    matches = (re.match(r"input_blocks\.(\d{1,4})\.", name, re.ASCII) for name in shapes)
    last = max(int(match[1]) for match in matches if match)
    if not 1 <= last <= MOST_BLOCKS:
        raise Unclear(f"it has {last} input blocks")
    blocks = []
    for i in range(1, last + 1):
        name = f"input_blocks.{i}"
        width = shapes.get(f"{name}.0.out_layers.3.weight", (0,))[0]
        attention, skip = f"{name}.1.qkv.weight" in shapes, f"{name}.0.skip_connection.weight"
        blocks.append(Block(width, attention, skip in shapes))
    return blocks


def _level_size(shapes, blocks):
    """How many input blocks a level has: its residual blocks, and what leads to the next level."""
    total = len(blocks) + 1  # the last level leads nowhere
    downs = [i for i, block in enumerate(blocks) if not block.width]
    ups = [
        name
        for name in shapes
        if re.fullmatch(r"output_blocks\.\d+\.[12]\.(in_layers\.2|conv)\.weight", name, re.ASCII)
    ]
    if downs or ups:
        levels = len(downs or ups) + 1
        sizes = [total // levels] if total % levels == 0 else []
    elif any(name.startswith("output_blocks.") for name in shapes):
        sizes = [total]
    else:
        sizes = [size for size in range(2, total + 1) if total % size == 0]
    sizes = [size for size in sizes if size > 1 and _is_regular(blocks, size, downs)]
    if len(sizes) != 1:
        fits = " or ".join(f"{total // size} levels of {size - 1} blocks" for size in sizes)
        raise Unclear(f"its input blocks make {fits or 'no levels of the same number of blocks'}")
    return sizes[0]


def _is_regular(blocks, size, downs):
    """Whether blocks make levels of one width, with attention after all or none of a level's."""
    for start in range(0, len(blocks), size):
        *inside, down = blocks[start : start + size] + [None] * (len(blocks) < start + size)
        if len({(block.width, block.has_attention) for block in inside}) > 1 or not inside[0].width:
            return False
        if any(block.has_skip for block in inside[1:]):
            return False
        if down and (down.has_attention or down.has_skip or down.width not in (0, inside[0].width)):
            return False
    return all(i % size == size - 1 for i in downs)


def _multiple(width, channels):
    """A level's multiple m, such that int(m * channels) is its width."""
    if width % channels == 0:
        return width // channels
    multiple = width / channels
    return multiple if int(multiple * channels) == width else math.nextafter(multiple, math.inf)


def _image_size(shapes, config, known):
    """The size of the images."""
    positions = shapes.get("out.2.positional_embedding")
    levels = len(config.model.channel_mult)
    if positions and config.model.pool == "attention":
        side = math.isqrt(max(positions[-1] - 1, 1))
        return side << (levels - 1)
    if known:
        return known.image_size
    raise UserError(
        "The network's tensors do not say the size of its images: give --image_size, such as "
        f"{16 << (levels - 1)}."
    )


def _set_heads(config, levels, options, known):
    """Sets the heads of attention, and returns what was assumed of them."""
    model = config.model
    if options.num_heads or options.head_channels:
        model.num_heads = options.num_heads or 0
        model.head_channels = options.head_channels or model.head_channels
        return []
    if known:
        model.num_heads = known.num_heads
        return []
    widths = {int(model.channel_mult[level] * model.channels) for level in (*levels, -1)}
    if any(width % HEAD for width in widths):
        raise UserError(
            f"The network's tensors do not say how many attention heads it has, and {HEAD} "
            f"channels a head do not divide its widths {sorted(widths)}: give --head_channels or "
            "--num_heads."
        )
    model.head_channels = HEAD
    return [f"attention heads of {HEAD} channels (--head_channels, --num_heads)"]
