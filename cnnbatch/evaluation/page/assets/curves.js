// The curves' section: what is drawn, the key beside it, which also says what each codec needs at the chosen quality, and the keys.

class Curves {
  constructor({ curves, published, start }) {
    this.chart = new Chart(byId("plot"));
    this.measure = "psnr_db";
    this.scale = "log";
    this.all = [...curves, ...published].map((curve, number) => ({
      ...curve, number, shown: !curve.published && curve.points.some((point) => !point.exact),
    }));
    this.drawn = [];
    this.at = null;
    this.start = start;
    this.rows = this.all.map((one) => this.row(one));
    this.listen();
    this.redraw();
    this.choose(this.first());
  }

  row(one) {
    const box = make("input", { type: "checkbox" });
    box.checked = one.shown;
    box.addEventListener("change", () => {
      one.shown = box.checked;
      this.redraw();
    });
    const sign = draw("svg", { width: 16, height: 14, viewBox: "-8 -7 16 14", "aria-hidden": "true" }, marker(one.number, one, one.published ? 2.5 : 4));
    const [rate, bits] = [make("td", { class: "n" }), make("td", { class: "n" })];
    const name = make("th", { scope: "row" }, make("label", {}, box, sign, make("span", {}, make("bdi", {}, one.label))));
    const row = make("tr", one.ours ? { class: "ours" } : {}, name, rate, bits);
    byId(one.published ? "published-series" : "series").tBodies[0].append(row);
    return { row, rate, bits };
  }

  listen() {
    onChoice("measure", (value) => { this.measure = value; this.redraw(); });
    onChoice("scale", (value) => { this.scale = value; this.redraw(); });
    const svg = this.chart.svg;
    const point = (event) => this.choose(this.chart.nearest(this.drawn, event.clientX, event.clientY));
    svg.addEventListener("pointermove", point);
    svg.addEventListener("pointerdown", point);
    svg.addEventListener("keydown", (event) => this.key(event));
    let width = svg.clientWidth;
    new ResizeObserver(() => {
      if (svg.clientWidth === width) return;
      width = svg.clientWidth;
      this.redraw();
    }).observe(svg);
  }

  /** The shown series with their points by the present measure; ours last, so that it lies above the others. */
  series() {
    const measured = this.all.filter((one) => one.shown).map((one) => ({
      ...one,
      points: one.points
        .filter((point) => (point.values[this.measure]?.value ?? null) !== null && point.values[this.measure].bpp > 0)
        .map((point) => ({
          x: point.values[this.measure].bpp,
          y: MEASURES[this.measure].toAxis(point.values[this.measure].value),
          value: point.values[this.measure].value,
          exact: point.exact, quality: point.quality, text: point.text,
        })),
    }));
    return measured.filter((one) => one.points.length).sort((a, b) => Number(a.ours) - Number(b.ours));
  }

  redraw() {
    const was = this.at;
    this.drawn = this.series();
    this.chart.show(this.drawn, { measure: this.measure, scale: this.scale });
    const one = was && this.drawn.find((other) => other.number === was.one.number);
    this.choose(one ? { one, index: clamp(was.index, 0, one.points.length - 1) } : this.first());
  }

  /** Where the eye should begin: the recommended quality, or the middle of our curve, or of the first. */
  first() {
    const one = this.drawn.find((other) => other.codec === this.start.codec) ?? this.drawn[0];
    if (!one) return null;
    if (this.start.quality === null) return { one, index: Math.floor(one.points.length / 2) };
    const far = (index) => Math.abs((one.points[index].quality ?? 0) - this.start.quality);
    return { one, index: one.points.reduce((best, _, index) => (far(index) < far(best) ? index : best), 0) };
  }

  choose(at) {
    this.at = at;
    if (!at) {
      byId("plot-said").textContent = "No curve is chosen.";
      return;
    }
    const point = at.one.points[at.index];
    this.chart.ring(at.one, at.one.places[at.index]);
    const text = `${at.one.label}, ${point.text}`;
    if (byId("plot-said").textContent !== text) byId("plot-said").textContent = text;
    this.compare(at.one, point);
  }

  /** Fills the key: what each codec needs for the distortion of `point`, and how much more that is than the chosen one's bits. */
  compare(chosen, point) {
    byId("series-title").textContent = point.exact ? "Bit-exact" : `At ${MEASURES[this.measure].show(point.value)}`;
    this.rows.forEach(({ row, rate, bits }, number) => {
      const one = this.drawn.find((other) => other.number === number);
      const curve = one ? one.points.filter((other) => other.exact === point.exact) : [];
      const needed = number === chosen.number ? point.x : point.exact ? curve[0]?.x ?? null : rateAt(curve, point.y);
      const more = needed === null ? null : 100 * (needed / point.x - 1);
      row.classList.toggle("off", !one);
      row.classList.toggle("chosen", number === chosen.number);
      rate.textContent = needed === null ? "" : needed.toFixed(3);
      bits.textContent = more === null || number === chosen.number ? "" : `${more < 0 ? "−" : "+"}${Math.abs(more).toFixed(0)} %`;
    });
  }

  key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    const curve = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (!this.at || (step === undefined && curve === undefined)) return;
    event.preventDefault();
    const { one, index } = this.at;
    if (step !== undefined) {
      this.choose({ one, index: clamp(index + step, 0, one.points.length - 1) });
      return;
    }
    const next = this.drawn[(this.drawn.indexOf(one) + curve + this.drawn.length) % this.drawn.length];
    const x = one.places[index].x;
    const far = (i) => Math.abs(next.places[i].x - x);
    this.choose({ one: next, index: next.points.reduce((best, _, i) => (far(i) < far(best) ? i : best), 0) });
  }
}
