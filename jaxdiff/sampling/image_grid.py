"""Many samples as one PIL image."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MOST_TILES = 100
MIN_TILE = 48
MARGIN = 2
CAPTION = 12


def picture(samples, cond, class_names=(), non_finite=()):
    """The first samples, with their classes below; None for arrays that cannot be drawn.

    Args:
      samples: images uint8 [N, H, W, C], C 1 or 3, or points [N, 2].
      cond: {name: array [N, ...]}; integers are labels.
      class_names: of the labels; empty: their numbers are shown.
      non_finite: numbers of samples that are not finite: a cross is drawn instead.
    """
    if samples.ndim == 2 and samples.shape[1] == 2:
        return scatter(samples[np.isfinite(samples).all(1)])
    if samples.ndim != 4 or samples.dtype != np.uint8 or samples.shape[-1] not in (1, 3):
        return None
    shown = samples[:MOST_TILES]
    labels = next((v[: len(shown)] for v in cond.values() if v.dtype.kind == "i"), None)
    if labels is None:
        return grid(shown, max(1, round(len(shown) ** 0.5)), (), non_finite)
    captions = [class_names[n] if class_names else str(n) for n in labels]
    # Labels are sampled in turn: a column for each class, while that fits a screen.
    kinds = len(np.unique(labels))
    columns = kinds if 1 < kinds <= 16 else max(1, round(len(shown) ** 0.5))
    return grid(shown, columns, captions, non_finite)


def grid(images, columns, captions=(), crossed=()):
    """Tiles images row by row; small ones are enlarged, smoothly, to at least 48 pixels.

    Args:
      images: uint8 [N, H, W, C], C 1 or 3.
      columns: tiles in a row.
      captions: a text under each image, or none; what is too long is cut.
      crossed: numbers of images in whose place a cross on a flat colour is drawn.

    Returns:
      A PIL image.
    """
    height, width = images.shape[1:3]
    factor = max(1, -(-MIN_TILE // min(height, width)))
    tile = (
        width * factor + 2 * MARGIN,
        height * factor + 2 * MARGIN + (CAPTION if captions else 0),
    )
    rows = -(-len(images) // columns)
    canvas = Image.new("RGB", (columns * tile[0], rows * tile[1]), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(CAPTION - 2)
    for number, image in enumerate(images):
        left = number % columns * tile[0] + MARGIN
        top = number // columns * tile[1] + MARGIN
        picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
        size = (width * factor, height * factor)
        if number in crossed:
            right, bottom = left + size[0] - 1, top + size[1] - 1
            draw.rectangle((left, top, right, bottom), fill="magenta")
            draw.line((left, top, right, bottom), fill="black", width=2)
            draw.line((left, bottom, right, top), fill="black", width=2)
        else:
            canvas.paste(picture.resize(size, Image.Resampling.BICUBIC), (left, top))
        if captions:
            middle = (left + width * factor / 2, top + height * factor)
            text = captions[number]
            while font.getlength(text) > tile[0]:
                text = text[:-1]
            draw.text(middle, text, fill="black", font=font, anchor="ma")
    return canvas


def scatter(points):
    """Draws points [N, 2] as small dots, both axes to one scale.

    Returns:
      A PIL image of 640 x 640 pixels.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Not pyplot, which would keep the figure, and choose a backend for the whole program.
    figure = Figure(figsize=(6.4, 6.4), dpi=100, layout="constrained")
    axes = figure.add_subplot(aspect="equal")
    axes.plot(points[:, 0], points[:, 1], ",", color="black")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def to_array(picture):
    """A PIL image as uint8 [H, W, 3]."""
    return np.asarray(picture.convert("RGB"))
