"""Draws pictures that are no photographs, from the fonts and pictures that matplotlib, Pillow and scikit-image ship.

    python -m benchmarks.graphics FOLDER

Text, charts, line art, screenshots and scans as PNG files; the same pixels at every run with the same versions.
"""

import argparse
import io
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

_TEXT: Final = (
    "archive of every picture that a museum keeps in its cellar since the first glass plate was exposed and each of them has a "
    "number a date and the name of who stood behind the camera most are sharp many are scratched and some show nothing but the "
    "rain that fell that day on the square before the town hall where nobody waited for a tram that did not come"
)
WORDS: Final = _TEXT.split()


@cache
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """One of matplotlib's: ``DejaVuSans``, ``DejaVuSerif``, ``DejaVuSansMono`` …"""
    data = (files("matplotlib") / "mpl-data" / "fonts" / "ttf" / f"{name}.ttf").read_bytes()
    return ImageFont.truetype(io.BytesIO(data), size, layout_engine=ImageFont.Layout.BASIC)


@cache
def of_skimage(name: str) -> Image.Image:
    """A picture of scikit-image's."""
    return Image.open(io.BytesIO((files("skimage") / "data" / name).read_bytes()))


def write(page: Image.Image, left: int, top: int, *, count: int, words: int, size: int, **look: Any) -> None:
    """Prints ``count`` lines of text."""
    rng = np.random.default_rng(count * words)
    name, ink, height = look.get("name", "DejaVuSans"), look.get("ink", "black"), round(1.35 * size)
    draw = ImageDraw.Draw(page)
    for row in range(count):
        draw.text((left, top + height * row), " ".join(rng.choice(WORDS, words)), ink, font(name, size))


def text_page() -> Image.Image:
    """Black print on white, with a heading."""
    page = Image.new("RGB", (720, 960), "white")
    ImageDraw.Draw(page).text((60, 40), "On the keeping of pictures", "black", font("DejaVuSerif-Bold", 30))
    write(page, 60, 100, count=40, words=11, size=15, name="DejaVuSerif")
    return page


def text_gray() -> Image.Image:
    """Small dark gray print, without colours."""
    page = Image.new("L", (640, 480), 255)
    write(page, 20, 10, count=31, words=14, size=11, ink=40)
    return page


def text_code() -> Image.Image:
    """A program in colours on a dark ground."""
    page = Image.new("RGB", (800, 600), "#1e1e2e")
    draw, rng = ImageDraw.Draw(page), np.random.default_rng(2)
    colours = ("#cdd6f4", "#89b4fa", "#a6e3a1", "#f9e2af", "#f38ba8")
    for row in range(32):
        draw.text((14, 10 + 18 * row), f"{row + 1:3}", "#6c7086", font("DejaVuSansMono", 13))
        left = 50 + 32 * int(rng.integers(0, 4))
        for word in rng.choice(WORDS, int(rng.integers(2, 8))):
            draw.text((left, 10 + 18 * row), str(word), colours[int(rng.integers(0, 5))], font("DejaVuSansMono", 13))
            left += 8 * (len(word) + 1)
    return page


def chart(paint: Callable[[Any, np.random.Generator], object]) -> Image.Image:
    """A figure of matplotlib's with its own look."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(8, 5), dpi=100, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        paint(figure.add_subplot(), np.random.default_rng(3))
        canvas.draw()
        return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def chart_lines() -> Image.Image:
    """Curves with a legend and a grid."""

    def paint(axes: Any, rng: np.random.Generator) -> None:
        for number in range(5):
            axes.plot(np.cumsum(rng.normal(0.1, 1, 200)), label=f"series {number}")
        axes.set(title="Five random walks", xlabel="steps", ylabel="place")
        axes.grid(alpha=0.4)
        axes.legend()

    return chart(paint)


def chart_bars() -> Image.Image:
    """Bars with labels."""

    def paint(axes: Any, rng: np.random.Generator) -> None:
        bars = axes.bar(WORDS[:10], rng.integers(5, 100, 10), color="#4477aa", edgecolor="black")
        axes.bar_label(bars)
        axes.set(title="Pictures by shelf", ylabel="pictures")

    return chart(paint)


def chart_map() -> Image.Image:
    """A field in colours with its contours and a scatter."""

    def paint(axes: Any, rng: np.random.Generator) -> None:
        y, x = np.mgrid[-2:2:200j, -3:3:300j]
        field = np.exp(-(x**2) - y**2) + np.sin(2 * x) * np.cos(3 * y) / 2
        axes.imshow(field, extent=(-3, 3, -2, 2), cmap="viridis")
        axes.contour(x, y, field, colors="white", linewidths=0.7)
        axes.scatter(rng.uniform(-3, 3, 150), rng.uniform(-2, 2, 150), s=9, c="red")

    return chart(paint)


def line_art_curves() -> Image.Image:
    """A drawing in ink with areas of flat colour."""
    scale = 4
    page = Image.new("RGB", (768 * scale, 512 * scale), "white")
    draw, rng = ImageDraw.Draw(page), np.random.default_rng(4)
    colours = ("#ffd166", "#06d6a0", "#118ab2", "#ef476f", "#ffffff")
    for number in range(24):
        angle = np.linspace(0, 2 * np.pi, 200)
        radius = rng.uniform(30, 110) * (1 + 0.3 * np.sin(rng.integers(2, 6) * angle + rng.uniform(0, 6)))
        middle = rng.uniform((40, 40), (728, 472))
        outline = [tuple(scale * p) for p in middle + np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)]
        draw.polygon(outline, fill=colours[number % 5])
        draw.line([*outline, outline[0]], fill="black", width=3 * scale, joint="curve")
    return page.resize((768, 512), Image.Resampling.LANCZOS)


def line_art_hatched() -> Image.Image:
    """An engraving: a gray picture in lines of changing width."""
    scale = 3
    tones = of_skimage("camera.png").convert("L").crop((60, 40, 400, 380)).resize((512, 512), Image.Resampling.BICUBIC)
    y, x = np.mgrid[0 : 512 * scale, 0 : 512 * scale]
    dark = 1 - np.asarray(tones.resize((512 * scale, 512 * scale), Image.Resampling.BICUBIC)) / 255
    ink = np.sin((x + 0.6 * y) * 2 * np.pi / (7 * scale)) > 1 - 2 * dark
    return Image.fromarray(np.where(ink, 0, 255).astype(np.uint8)).resize((512, 512), Image.Resampling.LANCZOS)


def screenshot_window() -> Image.Image:
    """A window of a desktop: title, buttons, a list, no photograph."""
    page = Image.new("RGB", (960, 640), "#e9edf2")
    draw = ImageDraw.Draw(page)
    draw.rectangle((0, 0, 960, 36), fill="#2f3e4e")
    draw.text((16, 9), "Archive of the town museum", "white", font("DejaVuSans-Bold", 15))
    for number, colour in enumerate(("#f25f5c", "#ffe066", "#70c1b3")):
        draw.ellipse((890 + 22 * number, 11, 904 + 22 * number, 25), fill=colour)
    draw.rectangle((0, 36, 210, 640), fill="#dfe5ec")
    write(page, 16, 52, count=22, words=2, size=14, ink="#33475b")
    for row in range(18):
        top = 60 + 31 * row
        draw.rectangle((222, top, 944, top + 30), fill="white" if row % 2 else "#f6f8fa", outline="#d5dce4")
        draw.rounded_rectangle((850, top + 6, 930, top + 24), 6, fill="#3a86ff" if row % 3 else "#adb5bd")
        draw.text((864, top + 8), "open" if row % 3 else "done", "white", font("DejaVuSans", 11))
        draw.text((234, top + 8), f"IMG_{4000 + 37 * row}.jpg", "#1d3557", font("DejaVuSansMono", 12))
        draw.text((400, top + 8), " ".join(WORDS[row : row + 6]), "#495057", font("DejaVuSans", 12))
    return page


def screenshot_page() -> Image.Image:
    """A page of the web with a photograph in it."""
    page = Image.new("RGB", (960, 720), "white")
    draw = ImageDraw.Draw(page)
    draw.rectangle((0, 0, 960, 60), fill="#0b7285")
    draw.text((40, 16), "A cat, and what was said of it", "white", font("DejaVuSans-Bold", 24))
    page.paste(of_skimage("chelsea.png").convert("RGB"), (40, 90))
    write(page, 40, 410, count=14, words=18, size=14, ink="#212529", name="DejaVuSerif")
    write(page, 530, 90, count=15, words=8, size=14, ink="#0b7285")
    return page


def scanned(page: Image.Image, *, seed: int) -> Image.Image:
    """``page`` as a scanner saw it: a little turned and soft, on paper of uneven light, with noise."""
    rng = np.random.default_rng(seed)
    turned = page.convert("RGB").rotate(0.6, Image.Resampling.BICUBIC, fillcolor=(255, 255, 255))
    soft = np.asarray(turned.filter(ImageFilter.GaussianBlur(0.7)), np.float64)
    y, x = np.mgrid[0 : 1 : soft.shape[0] * 1j, 0 : 1 : soft.shape[1] * 1j]
    light = (0.95 - 0.08 * (x - 0.4) ** 2 - 0.1 * y**3)[..., None] * np.array([1.0, 0.985, 0.94])
    grain = rng.normal(0, 3, y.shape)
    grain = (grain + np.roll(grain, 1, 0) + np.roll(grain, 1, 1)) / 2  # of the paper: coarser than the scanner's own noise
    noise = rng.normal(0, 2.5, soft.shape) + grain[..., None]
    return Image.fromarray(np.clip(soft * light + noise + 6 * (1 - soft / 255), 0, 255).astype(np.uint8))


def scan_letter() -> Image.Image:
    """A typed letter."""
    page = Image.new("RGB", (700, 900), "white")
    write(page, 70, 90, count=34, words=8, size=16, ink="#222222", name="DejaVuSansMono")
    return scanned(page, seed=5)


def scan_form() -> Image.Image:
    """A form with a stamp and a signature."""
    page = Image.new("RGB", (800, 600), "white")
    draw = ImageDraw.Draw(page)
    for row in range(9):
        draw.rectangle((60, 60 + 50 * row, 740, 110 + 50 * row), outline="#555555")
        draw.text((70, 66 + 50 * row), " ".join(WORDS[5 * row : 5 * row + 3]), "#333333", font("DejaVuSans", 11))
        draw.text((300, 78 + 50 * row), " ".join(WORDS[7 * row : 7 * row + 4]), "#1a237e", font("DejaVuSerif-Italic", 19))
    draw.ellipse((560, 380, 720, 540), outline="#b71c1c", width=5)
    draw.text((585, 448), "RECEIVED", "#b71c1c", font("DejaVuSans-Bold", 20))
    strokes = np.linspace(0, 12, 200)
    draw.line([(120 + 18 * t, 550 + 18 * np.sin(2.1 * t) * np.cos(0.9 * t)) for t in strokes], fill="#0d1b8e", width=3)
    return scanned(page, seed=6)


def scan_book() -> Image.Image:
    """A real one: a page of a book, gray."""
    return of_skimage("page.png").convert("L")


PICTURES: Final = {
    made.__name__: made
    for made in (
        *(text_page, text_gray, text_code, chart_lines, chart_bars, chart_map, line_art_curves, line_art_hatched),
        *(screenshot_window, screenshot_page, scan_letter, scan_form, scan_book),
    )
}
"""By name, which begins with the kind."""


def kind(name: str) -> str:
    """``text``, ``chart``, ``line_art``, ``screenshot`` or ``scan``."""
    return name.rpartition("_")[0]


def main() -> None:
    """Writes all of them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        draw().save(folder / f"{name}.png", optimize=True)
    print(f"{len(PICTURES)} pictures in {folder}")


if __name__ == "__main__":
    main()
