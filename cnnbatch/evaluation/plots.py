"""The curves as SVG, by matplotlib, which is optional."""

import io
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from cnnbatch.evaluation.bd_rate import rate_points
from cnnbatch.evaluation.ours import NAME
from cnnbatch.evaluation.scales import SCALES
from cnnbatch.evaluation.summary import Curve, Measure, Published

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OURS_COLOURS: Final = ("#c1272d", "#e8743b", "#8e1b4f")
_COLOURS: Final = {
    "jpeg444": "#7a7a7a",
    "jpeg420": "#b0b0b0",
    "webp": "#2f7ed8",
    "avif": "#2a9d6f",
    "avif420": "#1f6f50",
    "avif-psnr": "#7cc6a4",
    "jxl": "#8a63c9",
    "jpeg2000": "#b88a1e",
    "vq": "#5c4033",
    "pca": "#3d5a6c",
}


def missing() -> str | None:
    """Why there can be no plots; None: there can."""
    return None if find_spec("matplotlib") else "matplotlib is not installed: pip install 'cnnbatch[evaluate]'"


def draw(curves: Sequence[Curve], measure: Measure, *, title: str, published: Sequence[Published] = ()) -> bytes:
    """Distortion over rate as an SVG file, ours on top; the same curves give the same bytes.

    Lossless codecs have no curve, and published ones are drawn for PSNR, thin and dotted.
    """
    import matplotlib

    style: dict[Any, Any] = {"svg.hashsalt": "cnnbatch", "svg.fonttype": "path", "font.size": 9.0}
    with matplotlib.rc_context(style):
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7.5, 4.8), layout="constrained")
        axes = FigureCanvasSVG(figure).figure.add_subplot()
        lossy = sorted((curve for curve in curves if not curve.lossless), key=lambda curve: curve.codec.startswith(NAME))
        for curve in lossy:
            _plot(axes, curve, measure, [c.codec for c in lossy if c.codec.startswith(NAME)])
        for other in published if measure == "psnr_db" else ():
            axes.plot(*zip(*other.points, strict=True), linestyle=":", linewidth=1, label=f"{other.name}, published")
        _frame(axes, lossy, measure, title)
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def _plot(axes: "Axes", curve: Curve, measure: Measure, ours: Sequence[str]) -> None:
    points = rate_points(curve, measure)
    if not points:
        return
    is_ours = curve.codec in ours
    colour = _OURS_COLOURS[ours.index(curve.codec) % len(_OURS_COLOURS)] if is_ours else _COLOURS.get(curve.codec)
    axes.plot(
        *zip(*points, strict=True),
        marker="o",
        markersize=3.5 if is_ours else 2.5,
        linewidth=2.4 if is_ours else 1.2,
        color=colour,
        label=curve.label,
    )


def _frame(axes: "Axes", lossy: Sequence[Curve], measure: Measure, title: str) -> None:
    """Axes up to the rates that pictures are kept at: beyond 2.5 bpp all curves are nearly parallel."""
    axes.set(xlabel="bits per pixel", ylabel=f"{SCALES[measure].name}, {SCALES[measure].unit}", title=title)
    axes.set_xlim(0, min(2.5, max((point.bpp for curve in lossy for point in curve.points), default=2.5)))
    shown = [y for curve in lossy for bpp, y in rate_points(curve, measure) if bpp <= axes.get_xlim()[1]]
    if shown:
        room = SCALES[measure].shortest
        axes.set_ylim(min(shown) - room, max(shown) + room)
    axes.grid(alpha=0.25)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="lower right", frameon=False)
