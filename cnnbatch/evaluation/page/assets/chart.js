// One rate–distortion chart as SVG. It draws what it is given, and says which point is nearest to a place.

const MARGIN = { left: 52, right: 14, top: 14, bottom: 40 };
const MARKERS = [
  (r) => `M${-r},0a${r},${r} 0 1 0 ${2 * r},0a${r},${r} 0 1 0 ${-2 * r},0`,
  (r) => `M${-r},${-r}h${2 * r}v${2 * r}h${-2 * r}z`,
  (r) => `M0,${-1.3 * r}L${1.3 * r},0L0,${1.3 * r}L${-1.3 * r},0z`,
  (r) => `M0,${-1.2 * r}L${1.15 * r},${r}H${-1.15 * r}z`,
  (r) => `M0,${1.2 * r}L${1.15 * r},${-r}H${-1.15 * r}z`,
];

/** The sign of series `number`: a shape and a colour (a class of the style sheet). Published curves share a colour. */
function marker(number, { published, ours }, radius) {
  const shape = ours ? MARKERS[0] : MARKERS[1 + (number % (MARKERS.length - 1))];
  return draw("path", { d: shape(radius), class: `mark ${seriesClass(number, { published, ours })}` });
}

function seriesClass(number, { published, ours }) {
  if (ours) return "ours";
  return published ? "published" : `s${number % 10}`;
}

class Chart {
  /** `svg` is redrawn by `show`; its size is that of the element. */
  constructor(svg) {
    this.svg = svg;
  }

  /** `series`: [{ number, published, ours, points: [{ x, y, exact }] }]; points with `exact` have no y: they stand at the top. */
  show(series, { measure, scale }) {
    this.measure = MEASURES[measure];
    this.scale = RATE_SCALES[scale];
    this.width = Math.max(280, this.svg.clientWidth);
    this.height = Math.max(240, this.svg.clientHeight);
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    this.setBounds(series);
    this.top = draw("g", { class: "top" });
    this.svg.replaceChildren(this.axes(), ...series.map((one) => this.curve(one)), this.top);
  }

  setBounds(series) {
    const points = series.flatMap((one) => one.points);
    const rates = points.map((point) => point.x);
    const values = points.filter((point) => !point.exact).map((point) => point.y);
    [this.x0, this.x1] = this.scale.bounds(Math.min(...rates, 8), Math.max(...rates, 0.1));
    const [low, high] = values.length ? [Math.min(...values), Math.max(...values)] : [20, 50];
    const room = Math.max(0.5, (high - low) * 0.06);
    [this.y0, this.y1] = [low - room, high + room];
  }

  x(rate) {
    return MARGIN.left + this.scale.place(rate, this.x0, this.x1) * (this.width - MARGIN.left - MARGIN.right);
  }

  y(value) {
    const part = (value - this.y0) / (this.y1 - this.y0);
    return this.height - MARGIN.bottom - part * (this.height - MARGIN.bottom - MARGIN.top);
  }

  axes() {
    const group = draw("g", { class: "axes", "aria-hidden": "true" });
    const [left, right, bottom] = [MARGIN.left, this.width - MARGIN.right, this.height - MARGIN.bottom];
    for (const [value, text] of this.measure.ticks(this.y0, this.y1)) {
      const y = this.y(value);
      group.append(draw("line", { x1: left, x2: right, y1: y, y2: y }), draw("text", { x: left - 8, y: y + 4, class: "end" }, text));
    }
    let free = -Infinity;
    for (const value of this.scale.ticks(this.x0, this.x1)) {
      const x = this.x(value);
      group.append(draw("line", { x1: x, x2: x, y1: MARGIN.top, y2: bottom }));
      if (x < free) continue;
      group.append(draw("text", { x, y: bottom + 17, class: "middle" }, `${value}`));
      free = x + 34;
    }
    group.append(
      draw("text", { x: left, y: this.height - 5, class: "title" }, "bits per pixel"),
      draw("text", { x: 4, y: MARGIN.top - 2, class: "title" }, this.measure.axis),
    );
    return group;
  }

  curve(one) {
    const places = one.points.map((point) => ({ x: this.x(point.x), y: point.exact ? MARGIN.top : this.y(point.y), exact: point.exact }));
    const line = places.filter((place) => !place.exact).map((place) => `${place.x.toFixed(1)},${place.y.toFixed(1)}`).join(" ");
    const group = draw("g", { class: seriesClass(one.number, one), "data-series": one.number });
    group.append(draw("polyline", { points: line, class: "curve" }));
    for (const place of places) {
      if (place.exact) group.append(draw("line", { x1: place.x, x2: place.x, y1: place.y, y2: this.height - MARGIN.bottom, class: "exact" }));
      const sign = marker(one.number, one, one.published ? 2 : 3.5);
      sign.setAttribute("transform", `translate(${place.x.toFixed(1)},${place.y.toFixed(1)})`);
      group.append(sign);
    }
    one.places = places;
    return group;
  }

  /** Rings the point at `place` of series `one`, with hairlines to both axes. */
  ring(one, place) {
    const sign = draw("circle", { cx: place.x, cy: place.y, r: 8, class: `ring ${seriesClass(one.number, one)}` });
    this.top.replaceChildren(
      draw("line", { x1: MARGIN.left, x2: this.width - MARGIN.right, y1: place.y, y2: place.y, class: "hair" }),
      draw("line", { x1: place.x, x2: place.x, y1: MARGIN.top, y2: this.height - MARGIN.bottom, class: "hair" }),
      sign,
    );
  }

  /** The series and the index of the point nearest to a place in the window, or null. */
  nearest(series, clientX, clientY) {
    const box = this.svg.getBoundingClientRect();
    const [x, y] = [((clientX - box.left) / box.width) * this.width, ((clientY - box.top) / box.height) * this.height];
    let best = null;
    for (const one of series) {
      one.places.forEach((place, index) => {
        const distance = (place.x - x) ** 2 + (place.y - y) ** 2;
        if (best === null || distance < best.distance) best = { one, index, distance };
      });
    }
    return best;
  }
}
