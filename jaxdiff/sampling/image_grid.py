"""Many samples as one picture."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MIN_TILE = 48
MARGIN = 2
CAPTION = 12


def columns_for(count, num_classes):
    """Columns of a grid: one a class while that fits a screen, else about a square."""
    if 1 < num_classes <= 16:
        return min(num_classes, count)
    return max(1, round(count**0.5))


def grid(images, columns, captions=(), crossed=()):
    """Tiles images row by row; small ones are enlarged, smoothly, to at least 48 pixels.

    Args:
      images: uint8 [N, H, W, C], C 1 or 3.
      columns: tiles in a row.
      captions: a text under each image, or none.
      crossed: numbers of images that are none: a cross on a flat colour is drawn instead.

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
            draw.text(middle, captions[number], fill="black", font=font, anchor="ma")
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
