// Charts as SVG of a width in pixels, each with a sentence for screen readers and its numbers in a table.

import { bytes, draw, make, number, visible } from "./dom.js";

const BAR = 15;
const ROW = 44;

/** Text that fits into so many pixels of a 13 px type, about. */
const fitted = (text, width) => {
  const most = Math.max(4, Math.floor(width / 7.2));
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
};

/** Two bars for each group: bytes of the originals, and of what the archive holds of them. */
export function pairs(svg, groups, { width, href }) {
  const widest = Math.max(1, ...groups.map((group) => Math.max(group.source_bytes, group.payload_bytes)));
  const items = groups.flatMap((group, index) => {
    const y = index * ROW;
    const share = group.source_bytes ? `${((100 * group.payload_bytes) / group.source_bytes).toFixed(0)} %` : "";
    const figures = `${bytes(group.source_bytes)} → ${bytes(group.payload_bytes)}  ${share}`;
    const name = draw("text", { x: 0, y: y + 14, class: "strong" }, fitted(visible(group.name), width - 7 * figures.length));
    const address = href?.(group);
    return [
      address ? draw("a", { href: address }, name) : name,
      draw("text", { x: width, y: y + 14, class: "end" }, figures),
      draw("rect", { x: 0, y: y + 20, width: Math.max(1, (width * group.source_bytes) / widest), height: BAR, rx: 2, class: "source" }),
      draw("rect", { x: 0, y: y + 20, width: Math.max(1, (width * group.payload_bytes) / widest), height: BAR, rx: 2, class: "payload" }),
    ];
  });
  frame(svg, width, groups.length * ROW, items);
}

/** A column for each month: originals, and in front what the archive holds of them. */
export function columns(svg, groups, { width, height = 190 }) {
  const highest = Math.max(1, ...groups.map((group) => group.source_bytes));
  const step = width / groups.length;
  const floor = height - 20;
  const wide = Math.max(1, Math.min(46, step * 0.8));
  const every = Math.ceil(62 / step);
  const items = groups.flatMap((group, index) => {
    const x = index * step + (step - wide) / 2;
    const tall = (value) => Math.max(1, ((floor - 18) * value) / highest);
    const column = draw("g", {}, draw("title", {}, `${group.name}: ${number(group.images)} pictures, ${bytes(group.source_bytes)} → ${bytes(group.payload_bytes)}`),
      draw("rect", { x, y: floor - tall(group.source_bytes), width: wide, height: tall(group.source_bytes), rx: 1, class: "source" }),
      draw("rect", { x, y: floor - tall(group.payload_bytes), width: wide, height: tall(group.payload_bytes), rx: 1, class: "payload" }));
    const shown = index % every === 0 && (groups.length - index) * step > 30;
    return [column, ...(shown ? [draw("text", { x: index * step + step / 2, y: height - 4, class: "middle" }, group.name)] : [])];
  });
  const top = draw("text", { x: 0, y: 11 }, bytes(highest));
  frame(svg, width, height, [draw("line", { x1: 0, x2: width, y1: floor, y2: floor, class: "axis" }), ...items, top]);
}

/** Counts between two values, with the median. */
export function histogram(svg, { low, high, counts, median }, { width, height = 170, unit }) {
  const highest = Math.max(1, ...counts);
  const step = width / counts.length;
  const floor = height - 20;
  const items = counts.map((value, index) => {
    const tall = value ? Math.max(1.5, ((floor - 20) * value) / highest) : 0;
    const from = low + ((high - low) * index) / counts.length;
    return draw("rect", { x: index * step + 0.5, y: floor - tall, width: Math.max(1, step - 1), height: tall, rx: 1, class: "payload" },
      draw("title", {}, `${from.toFixed(1)} and more: ${number(value)}`));
  });
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((part) => {
    const side = part === 0 ? "" : part === 1 ? "end" : "middle";
    return draw("text", { x: width * part, y: height - 4, class: side }, `${low + (high - low) * part}`);
  });
  const marks = [];
  if (median !== undefined) {
    const x = (width * Math.min(1, Math.max(0, (median - low) / (high - low))));
    marks.push(draw("line", { x1: x, x2: x, y1: 14, y2: floor, class: "median" }),
      draw("text", { x: Math.min(Math.max(x, 60), width - 60), y: 11, class: "middle" }, `half above ${median.toFixed(1)}${unit}`));
  }
  frame(svg, width, height, [draw("line", { x1: 0, x2: width, y1: floor, y2: floor, class: "axis" }), ...items, ...ticks, ...marks]);
}

/** One bar in parts. */
export function parts(svg, groups, { width, height = 28 }) {
  const all = groups.reduce((sum, group) => sum + group.value, 0) || 1;
  let x = 0;
  const items = groups.map((group) => {
    const wide = (width * group.value) / all;
    const item = draw("rect", { x, y: 0, width: Math.max(0, wide - 1), height, rx: 2, class: group.kind }, draw("title", {}, `${group.name}: ${group.text}`));
    x += wide;
    return item;
  });
  frame(svg, width, height, items);
}

/** A column for each run: how many pictures, and whether it went well. */
export function nights(svg, runs, { width, height = 150 }) {
  const highest = Math.max(1, ...runs.map((run) => run.images));
  const step = width / runs.length;
  const floor = height - 20;
  const items = runs.flatMap((run, index) => {
    const good = run.exit_code === 0;
    const tall = Math.max(3, ((floor - 18) * run.images) / highest);
    const x = index * step + Math.max(0.5, (step - 30) / 2);
    const title = `${run.job} ${run.started_at}: ${number(run.images)} pictures, ${number(run.failures)} failed, exit code ${run.exit_code}`;
    const wide = Math.max(1, Math.min(30, step - 2));
    const mark = good ? [] : [draw("text", { x: x + wide / 2, y: floor - tall - 4, class: "middle strong" }, "!")];
    return [draw("g", {}, draw("title", {}, title), draw("rect", { x, y: floor - tall, width: wide, height: tall, rx: 1, class: good ? "good" : "bad" })), ...mark];
  });
  const ends = [draw("text", { x: 0, y: height - 4 }, runs[0].started_at.slice(0, 10)), draw("text", { x: width, y: height - 4, class: "end" }, runs.at(-1).started_at.slice(0, 10))];
  frame(svg, width, height, [draw("line", { x1: 0, x2: width, y1: floor, y2: floor, class: "axis" }), ...items, ...(runs.length > 1 ? ends : ends.slice(0, 1)), draw("text", { x: 0, y: 11 }, number(highest))]);
}

function frame(svg, width, height, items) {
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.style.height = `${height}px`;
  svg.replaceChildren(...items);
}

/** The numbers behind a chart. */
export function numbers(heads, rows) {
  const head = make("tr", {}, ...heads.map((name, index) => make("th", { scope: "col", class: index ? "n" : "" }, name)));
  const body = rows.map((row) => make("tr", {}, ...row.map((value, index) => make("td", { class: index ? "n" : "" }, visible(value)))));
  const table = make("table", {}, make("thead", {}, head), make("tbody", {}, ...body));
  return make("details", {}, make("summary", {}, "Numbers"), make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Numbers" }, table));
}
