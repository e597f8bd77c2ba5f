"""What every metric must do when a set of real images is damaged, written before it was measured.

A damage has three strengths. EXPECTED says of each damage and metric whether the metric must rise
("up"), fall ("down"), stay ("same") or may do either ("either"), and why. `holds` says by which
rule a row of measured values is judged. docs/evaluation.md shows both beside the commit that
brought them.
"""

from itertools import pairwise

UP, DOWN, SAME, EITHER = "up", "down", "same", "either"
METRICS = ("fd", "kid", "precision", "recall", "density", "coverage", "vendi", "mss")
STRICT = ("fd", "kid")
SLACK = 0.02  # how far one step of the other metrics may go back, of shares; relative, of the rest
STAYS = 0.1  # how far what stays may move, in the same units
SHARES = ("precision", "recall", "coverage")

# {damage: {metric: (direction, reason)}}
EXPECTED = {
    "blur": {
        "fd": (UP, "features leave those of real images"),
        "kid": (UP, "features leave those of real images"),
        "precision": (DOWN, "blurred images leave the balls of real ones"),
        "recall": (DOWN, "blurred images are closer together, so their balls shrink"),
        "density": (DOWN, "blurred images are in fewer balls of real ones"),
        "coverage": (DOWN, "fewer real images have a blurred one near"),
        "vendi": (DOWN, "without detail images are more similar"),
        "mss": (UP, "without detail images are more similar"),
    },
    "noise": {
        "fd": (UP, "features leave those of real images"),
        "kid": (UP, "features leave those of real images"),
        "precision": (DOWN, "noisy images leave the balls of real ones"),
        "recall": (EITHER, "the balls of noisy images move, but may grow"),
        "density": (DOWN, "noisy images are in fewer balls of real ones"),
        "coverage": (DOWN, "fewer real images have a noisy one near"),
        "vendi": (EITHER, "noise is a texture that all share, and hides detail or adds it"),
        "mss": (EITHER, "noise is a texture that all share, and hides detail or adds it"),
    },
    "jpeg": {
        "fd": (UP, "blocks and lost colours are features of their own"),
        "kid": (UP, "blocks and lost colours are features of their own"),
        "precision": (DOWN, "compressed images leave the balls of real ones"),
        "recall": (EITHER, "the balls of compressed images move, but may grow"),
        "density": (DOWN, "compressed images are in fewer balls of real ones"),
        "coverage": (DOWN, "fewer real images have a compressed one near"),
        "vendi": (EITHER, "blocks are shared, and hide detail or add it"),
        "mss": (EITHER, "blocks are shared, and hide detail or add it"),
    },
    "dropped classes": {
        "fd": (UP, "mean and covariance are those of a part"),
        "kid": (UP, "the distribution is that of a part"),
        "precision": (SAME, "what is left is real"),
        "recall": (DOWN, "real images of the dropped classes are in no ball"),
        "density": (EITHER, "what is left is real, but classes differ in how dense they are"),
        "coverage": (DOWN, "real images of the dropped classes have none near"),
        "vendi": (DOWN, "there are fewer kinds of images"),
        "mss": (EITHER, "within the classes that are left nothing changes; classes differ"),
    },
    "duplicates": {
        "fd": (UP, "fewer different images: the bias of a smaller set"),
        "kid": (UP, "copies count as pairs of different images, with the largest kernel"),
        "precision": (SAME, "every image is real"),
        "recall": (DOWN, "a copy is the nearest neighbour: balls shrink, with 4 copies to nothing"),
        "density": (SAME, "every image is in as many balls of real ones as before"),
        "coverage": (DOWN, "fewer different images reach fewer real ones"),
        "vendi": (DOWN, "there are fewer different images"),
        "mss": (UP, "copies have the similarity 1"),
    },
    "Fashion among photographs": {
        "fd": (UP, "a part has another distribution"),
        "kid": (UP, "a part has another distribution"),
        "precision": (DOWN, "Fashion images are in no ball of a photograph"),
        "recall": (EITHER, "fewer photographs are left, with larger balls"),
        "density": (DOWN, "Fashion images are in no ball of a photograph"),
        "coverage": (DOWN, "fewer photographs are left to be near a real one"),
        "vendi": (EITHER, "Fashion adds kinds of images, which differ less than photographs"),
        "mss": (EITHER, "Fashion differs from photographs, but little within itself"),
    },
    "photographs among Fashion": {
        "fd": (UP, "a part has another distribution"),
        "kid": (UP, "a part has another distribution"),
        "precision": (DOWN, "photographs are in no ball of a Fashion image"),
        "recall": (EITHER, "fewer Fashion images are left, with larger balls"),
        "density": (DOWN, "photographs are in no ball of a Fashion image"),
        "coverage": (DOWN, "fewer Fashion images are left to be near a real one"),
        "vendi": (UP, "photographs add kinds of images that differ much"),
        "mss": (DOWN, "photographs differ from Fashion and from one another"),
    },
}


def holds(damage, metric, values):
    """Whether measured values are as EXPECTED says; None where they may do either.

    FD and KID must move with every step of the strength. Of the other metrics the strongest damage
    must move the value the way that is named, and no step may go back by more than SLACK. What is
    to stay may move by at most STAYS. Both limits are absolute for shares, and relative to the
    intact set for density, Vendi score and MSS.

    Args:
      damage, metric: names.
      values: of the intact set, and of each strength in rising order.
    """
    direction, _ = EXPECTED[damage][metric]
    if direction == EITHER:
        return None
    unit = 1 if metric in SHARES else abs(values[0])
    if direction == SAME:
        return max(abs(value - values[0]) for value in values) <= STAYS * unit
    sign = 1 if direction == UP else -1
    steps = [sign * (b - a) for a, b in pairwise(values)]
    if metric in STRICT:
        return min(steps) > 0
    return sum(steps) > 0 and min(steps) >= -SLACK * unit
