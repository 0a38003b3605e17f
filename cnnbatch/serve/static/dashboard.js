// The dashboard: what an archive saved, of what, how good it is, and what the last runs did.

import { api, archive, byId, bytes, count, draw, load, make, number, visible } from "./dom.js";
import { columns, histogram, nights, numbers, pairs, parts } from "./charts.js";

const MOST_BARS = 10;
const drawn = [];

/** A card with a chart that is drawn again when its width changes. */
function card(title, note, said, paint, table, { isWide = false, role = "img" } = {}) {
  const svg = draw("svg", { role, "aria-label": said });
  const element = make("section", { class: isWide ? "card wide" : "card" }, make("h2", {}, title), ...(note ? [make("p", { class: "note" }, note)] : []), svg, ...(table ? [table] : []));
  byId("cards").append(element);
  again(svg, paint);
  return element;
}

function again(svg, paint) {
  let last = 0;
  const repaint = () => {
    const width = Math.floor(svg.getBoundingClientRect().width);
    if (width > 0 && width !== last) {
      last = width;
      paint(svg, width);
    }
  };
  drawn.push(repaint);
  repaint();
}
new ResizeObserver(() => drawn.forEach((repaint) => repaint())).observe(document.body);

const rows = (groups) => groups.map((group) => [group.name || "(none)", number(group.images), bytes(group.source_bytes), bytes(group.payload_bytes)]);
const HEADS = ["", "Pictures", "Originals", "Archive"];

function groupCard(title, note, groups, href) {
  const named = groups.map((group) => ({ ...group, name: group.name || "(no folder)" }));
  const most = named.slice(0, MOST_BARS);
  const said = most.slice(0, 3).map((group) => `${visible(group.name)} ${bytes(group.source_bytes)} to ${bytes(group.payload_bytes)}`).join(", ");
  card(title, note, `${title}: ${said}`, (svg, width) => pairs(svg, most, { width, href }), numbers(HEADS, rows(named)), { role: href ? "group" : "img" });
}

function hero(found) {
  byId("saved").replaceChildren(bytes(found.source_bytes), " → ", make("strong", {}, bytes(found.archive_bytes)));
  const saved = found.source_bytes - found.archive_bytes;
  const share = found.source_bytes ? (100 * saved) / found.source_bytes : 0;
  byId("lead").textContent = `${count(found.images, "picture")}, ${(found.pixels / 1e6).toFixed(1)} megapixels: ` +
    (saved >= 0 ? `${bytes(saved)} saved, ${share.toFixed(1)} % of the originals.` : `${bytes(-saved)} more than the originals.`);
  byId("whole").setAttribute("aria-label", byId("lead").textContent);
  again(byId("whole"), (svg, width) => {
    parts(svg, [
      { name: "Archive", value: found.archive_bytes, kind: "payload", text: bytes(found.archive_bytes) },
      { name: "Saved", value: Math.max(0, saved), kind: "source", text: bytes(Math.max(0, saved)) },
    ], { width });
  });
  if (found.faults) byId("said").textContent = `${count(found.faults, "shard")} cannot be read: cnnbatch doctor says more.`;
  else byId("said").textContent = "";
}

const NAMES = { cnn: "coded", store: "kept as they were" };

function outcomes(found) {
  const kinds = { cnn: "payload", store: "kept" };
  const groups = found.outcomes.map((group) => ({ name: NAMES[group.name] || group.name, value: group.images, kind: kinds[group.name] || "source", text: count(group.images, "picture") }));
  const said = groups.map((group) => `${group.text} ${group.name}`).join(", ");
  const element = card("Outcomes", "", said, (svg, width) => parts(svg, groups, { width }), null);
  element.append(make("ul", { class: "legend" }, ...groups.map((group) => make("li", {}, make("span", { class: group.kind }), `${group.name}: ${group.text}`))));
  const reasons = found.reasons.filter((group) => group.images);
  if (!reasons.length) return;
  const svg = draw("svg", { role: "img", "aria-label": "Why pictures were kept" });
  element.append(make("p", { class: "note" }, "Why pictures were kept:"), svg, numbers(HEADS, rows(reasons)));
  again(svg, (target, width) => pairs(target, reasons.slice(0, 6).map((group) => ({ ...group, name: `${group.name || "no reason"}: ${number(group.images)}` })), { width }));
}

function quality(found) {
  const kinds = [["ssimulacra2", "SSIMULACRA2", "", "What the eye sees: 90 cannot be told apart at first sight, 70 is high quality, 50 medium."], ["psnr_db", "PSNR", " dB", ""], ["quality", "Quality setting", "", ""]];
  for (const [column, title, unit, note] of kinds) {
    const values = found.histograms[column];
    if (!values.images) continue;
    const said = `${title} of ${count(values.images, "picture")}: half above ${values.median.toFixed(1)}${unit}, one in twenty below ${values.p5.toFixed(1)}${unit}`;
    const step = (values.high - values.low) / values.counts.length;
    const lines = values.counts.flatMap((value, index) => (value ? [[`${(values.low + index * step).toFixed(1)}…`, number(value)]] : []));
    card(title, `${note} One in twenty is below ${values.p5.toFixed(1)}${unit}.`.trim(), said, (svg, width) => histogram(svg, values, { width, unit }), numbers(["From", "Pictures"], lines));
  }
}

function lastRuns({ runs }) {
  if (!runs.length) return;
  const bad = runs.filter((run) => run.exit_code !== 0).length;
  const said = `${count(runs.length, "run")}, ${bad} of them with a fault`;
  const lines = runs.slice().reverse().map((run) => [`${run.started_at.slice(0, 16).replace("T", " ")} ${run.job}`, number(run.images), number(run.failures), run.steps.filter((step) => step.outcome === "failed").map((step) => step.name).join(", ") || "–", `${run.exit_code}`]);
  card("Last runs", said, said, (svg, width) => nights(svg, runs, { width }), numbers(["Run", "Pictures", "Failed", "Failed steps", "Exit code"], lines), { isWide: true });
}

document.title = `${archive} · cnnbatch`;
byId("title").textContent = archive;
try {
  const found = await load(api("figures"));
  hero(found);
  if (found.months.length > 1) {
    const ends = `${found.months[0].name} to ${found.months.at(-1).name}`;
    card("By month of the originals", ends, `Bytes by month, ${ends}`, (svg, width) => columns(svg, found.months, { width }), numbers(HEADS, rows(found.months)), { isWide: true });
  }
  groupCard("By folder", "", found.folders, (group) => (group.others || !group.name.endsWith("/") ? null : `./?${new URLSearchParams({ folder: group.name })}`));
  groupCard("By format", "", found.formats, (group) => (group.others ? null : `./?${new URLSearchParams({ format: group.name })}`));
  outcomes(found);
  quality(found);
  lastRuns(await load(api("runs")));
} catch (error) {
  byId("said").textContent = error.message;
  byId("said").classList.add("fault");
}
