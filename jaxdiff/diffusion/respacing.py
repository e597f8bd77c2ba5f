"""Which of a process's timesteps a sampler visits (Nichol & Dhariwal 2021, arXiv:2102.09672)."""

from jaxdiff.numbers import whole


def respace(num_timesteps, spec):
    """The timesteps that a respacing keeps.

    Args:
      num_timesteps: T, how many there are.
      spec: "" for all; "250" for that many, evenly from 0 to T - 1; "25,50" for 25 in the first
        (cleaner) half and 50 in the second; "ddim25" for 25 at the smallest whole stride that
        gives exactly 25. Whole numbers may be given as int.

    Returns:
      A list of increasing timesteps.

    Raises:
      ValueError: for a spec that cannot be read or met, in a whole sentence.
    """
    spec = str(spec)
    if not spec:
        return list(range(num_timesteps))
    if spec.startswith("ddim"):
        return _strided(num_timesteps, spec)
    counts = [whole(part) for part in spec.split(",")]
    if not all(counts):
        raise ValueError(
            f'The steps "{spec}" cannot be read: give a number such as 250, a comma-separated '
            'list of numbers such as 25,50, or "ddim" and a number such as ddim25.'
        )
    return _sections(num_timesteps, spec, counts)


def _strided(num_timesteps, spec):
    count = whole(spec[4:])
    for stride in range(1, num_timesteps + 1):
        steps = range(0, num_timesteps, stride)
        if len(steps) == count:
            return list(steps)
    raise ValueError(
        f'The steps "{spec}" cannot be met: no whole stride through {num_timesteps} timesteps '
        "makes that many; give another number, or leave the word ddim out."
    )


def _sections(num_timesteps, spec, counts):
    size, extra = divmod(num_timesteps, len(counts))
    kept, start = [], 0
    for section, count in enumerate(counts):
        length = size + (section < extra)
        if count > length:
            raise ValueError(
                f'The steps "{spec}" cannot be met: part {section + 1} of {len(counts)} has '
                f"{length} of the {num_timesteps} timesteps and {count} are asked for; ask for "
                "fewer."
            )
        # Repeated addition, not multiplication: the published samplers round its errors.
        stride, position = (length - 1) / (count - 1) if count > 1 else 1, 0.0
        for _ in range(count):
            kept.append(start + round(position))
            position += stride
        start += length
    return kept
