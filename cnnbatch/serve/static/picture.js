// One picture: a viewer over IIIF tiles, what is known of it, what it cost, and the original beside it.

import { api, archive, byId, bytes, clamp, day, draw, lastPart, load, make, number, visible } from "./dom.js";

const query = Object.fromEntries(new URLSearchParams(location.search));
const key = query.key || "";
const base = `/iiif/${encodeURIComponent(archive)}`;
const STEP = 2;
const PAGE = 10;

const viewer = OpenSeadragon({
  element: byId("viewer"),
  showNavigationControl: false,
  showNavigator: false,
  animationTime: window.matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 0.5,
  maxZoomPixelRatio: 8,
  minZoomImageRatio: 0.8,
  visibilityRatio: 0.5,
  imageSmoothingEnabled: true,
  gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
  crossOriginPolicy: false,
  drawer: "canvas",
});
const say = (text, isFault = false) => {
  byId("said").textContent = text;
  byId("said").classList.toggle("fault", isFault);
};

const state = { view: "", compare: false, difference: false, layers: {}, divider: 50, described: {} };

async function describe(view) {
  state.described[view] ??= load(`${base}${view ? `~${view}` : ""}/${encodeURIComponent(key)}/info.json`);
  const info = await state.described[view];
  return { ...info, id: `${location.origin}${base}${view ? `~${view}` : ""}/${encodeURIComponent(key)}` };
}

/** The layer of a view, added once. */
async function layer(view) {
  state.layers[view] ??= describe(view).then((info) => new Promise((done, failed) => {
    viewer.addTiledImage({
      tileSource: info,
      success: ({ item }) => done(item),
      error: ({ message }) => failed(new Error(message)),
      opacity: 0,
      preload: false,
    });
  }));
  return state.layers[view];
}

async function update() {
  const ours = state.difference ? "difference" : state.view;
  const wanted = state.compare && !state.difference ? [ours, "source"] : [ours];
  try {
    const layers = await Promise.all(wanted.map(layer));
    for (const [view, promise] of Object.entries(state.layers)) {
      const item = await promise;
      if (!wanted.includes(view)) item.setOpacity(0);
    }
    layers.forEach((item) => item.setOpacity(1));
    if (wanted.length === 2) viewer.world.setItemIndex(layers[1], viewer.world.getItemCount() - 1);
    for (const item of layers) item.setClip(null);
    byId("divider").hidden = byId("left-tag").hidden = byId("right-tag").hidden = wanted.length < 2;
    if (wanted.length === 2) divide();
  } catch (error) {
    say(error.message, true);
  }
}

/** Cuts the original at the divider. */
async function divide() {
  byId("divider").style.left = `${state.divider}%`;
  byId("divider").setAttribute("aria-valuenow", Math.round(state.divider));
  byId("divider").setAttribute("aria-valuetext", `${Math.round(state.divider)} % original`);
  if (!state.compare || state.difference || !state.layers.source) return;
  const item = await state.layers.source;
  const size = item.getContentSize();
  const at = new OpenSeadragon.Point((byId("viewer").clientWidth * state.divider) / 100, byId("viewer").clientHeight / 2);
  const x = clamp(item.viewerElementToImageCoordinates(at).x, 0, size.x);
  if (x <= 0) item.setOpacity(0);
  else {
    item.setOpacity(1);
    item.setClip(new OpenSeadragon.Rect(0, 0, x, size.y));
  }
}

function press(id, name, others = []) {
  byId(id).addEventListener("click", () => {
    state[name] = !state[name];
    for (const other of others) state[other] = false;
    reflect();
    update();
  });
}

function reflect() {
  byId("full").setAttribute("aria-pressed", state.view === "full");
  byId("compare").setAttribute("aria-pressed", state.compare);
  byId("difference").setAttribute("aria-pressed", state.difference);
}

byId("in").addEventListener("click", () => viewer.viewport.zoomBy(1.5).applyConstraints());
byId("out").addEventListener("click", () => viewer.viewport.zoomBy(1 / 1.5).applyConstraints());
byId("fit").addEventListener("click", () => viewer.viewport.goHome());
byId("exact").addEventListener("click", () => viewer.viewport.zoomTo(viewer.viewport.imageToViewportZoom(1 / window.devicePixelRatio)));
byId("turn").addEventListener("click", () => viewer.viewport.setRotation(viewer.viewport.getRotation() + 90));
byId("full").addEventListener("click", () => {
  state.view = state.view ? "" : "full";
  reflect();
  update();
});
press("compare", "compare", ["difference"]);
press("difference", "difference", ["compare"]);
byId("compare").addEventListener("click", () => {
  if (state.compare) state.view = "full";  // what is compared is what PSNR means
  reflect();
  update();
});

const divider = byId("divider");
let dragging = null;
divider.addEventListener("pointerdown", (event) => {
  dragging = event.pointerId;
  divider.setPointerCapture(dragging);
  event.preventDefault();
  divider.focus();
});
divider.addEventListener("pointermove", (event) => {
  if (event.pointerId !== dragging) return;
  const box = byId("frame").getBoundingClientRect();
  state.divider = clamp((100 * (event.clientX - box.left)) / box.width, 0, 100);
  divide();
});
for (const end of ["pointerup", "pointercancel"]) divider.addEventListener(end, () => { dragging = null; });
divider.addEventListener("keydown", (event) => {
  const moves = { ArrowLeft: -STEP, ArrowRight: STEP, PageDown: -PAGE, PageUp: PAGE, Home: -100, End: 100 };
  if (!(event.key in moves)) return;
  event.preventDefault();
  event.stopPropagation();
  state.divider = clamp(state.divider + moves[event.key], 0, 100);
  divide();
});
for (const moved of ["animation", "resize", "open", "rotate"]) viewer.addHandler(moved, divide);
viewer.addHandler("tile-load-failed", () => say("a part of the picture could not be had", true));

function facts(picture) {
  const rows = [
    ["Size", picture.width ? `${number(picture.width)} × ${number(picture.height)} pixels, ${(picture.width * picture.height / 1e6).toFixed(1)} MP` : null],
    ["Format", picture.source_format],
    ["Outcome", picture.outcome === "cnn" ? `coded${picture.quality === null ? "" : `, quality ${picture.quality}`}` : `kept (${picture.payload_coding})`],
    ["Why", picture.reason],
    ["PSNR", picture.psnr_db === null ? null : `${picture.psnr_db.toFixed(2)} dB`],
    ["SSIMULACRA2", picture.ssimulacra2 === null ? null : picture.ssimulacra2.toFixed(1)],
    ["Label", picture.label],
    ["Original of", day(picture.source_mtime)],
    ["Archived", day(picture.ingested_at)],
    ["Path", picture.key],
  ];
  return rows.filter(([, value]) => value).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, visible(value))]);
}

function cost(picture) {
  const sides = Object.values(picture.side_bytes).reduce((sum, one) => sum + one, 0);
  const all = picture.payload_bytes + sides;
  const widest = Math.max(picture.source_size, all, 1);
  const bar = (y, width, name) => draw("rect", { x: 0, y, width: `${(100 * width) / widest}%`, height: 12, rx: 2, class: name });
  const pixels = picture.width ? `, ${((8 * all) / (picture.width * picture.height)).toFixed(2)} bits a pixel` : "";
  const text = `${bytes(picture.source_size)} → ${bytes(all)}${pixels}${sides ? `, of it ${bytes(sides)} of metadata and alpha` : ""}`;
  byId("cost").replaceChildren(bar(2, picture.source_size, "source-bar"), bar(20, all, sides ? "side-bar" : "payload-bar"), bar(20, picture.payload_bytes, "payload-bar"));
  byId("cost").setAttribute("aria-label", `Original ${bytes(picture.source_size)}, in the archive ${bytes(all)}`);
  byId("cost-said").textContent = text;
}

function table(title, entries) {
  const rows = Object.entries(entries).flatMap(([name, value]) => [make("dt", {}, visible(name)), make("dd", {}, visible(value))]);
  return rows.length ? make("details", {}, make("summary", {}, title), make("dl", {}, ...rows)) : "";
}

function neighbour(id, other) {
  byId(id).hidden = !other;
  if (other) byId(id).href = `picture?${new URLSearchParams({ ...query, key: other })}`;
}

function downloads(picture) {
  const kinds = { original: "As it was", cnb: ".cnb" };
  if (picture.outcome === "cnn") Object.assign(kinds, { png: "PNG", webp: "WebP", jpeg: "JPEG" });
  if (picture.source) kinds.source = "From the source";
  return Object.entries(kinds).map(([as, name]) => make("a", { class: "button", download: "", href: `file?${new URLSearchParams({ key: picture.key, as })}` }, name));
}

document.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey || /INPUT|SELECT/.test(document.activeElement.tagName)) return;
  const link = { n: "next", p: "previous", Escape: "back" }[event.key];
  if (link && !byId(link).hidden) byId(link).click();
});

const rest = Object.fromEntries(Object.entries(query).filter(([name]) => name !== "key"));
byId("back").href = `./?${new URLSearchParams(rest)}`;
byId("title").textContent = lastPart(key);
document.title = `${lastPart(key)} · ${archive}`;
byId("viewer").setAttribute("aria-label", `${lastPart(key)}: arrow keys move, + and − zoom`);

load(api("picture", query)).then((picture) => {
  byId("facts").replaceChildren(...facts(picture));
  byId("place").textContent = picture.position === null ? "" : `${number(picture.position + 1)} of ${number(picture.total)}`;
  byId("downloads").replaceChildren(...downloads(picture));
  byId("comparing").hidden = !picture.source || picture.outcome !== "cnn";
  byId("full").hidden = picture.outcome !== "cnn";
  byId("more").replaceChildren(
    table("Beside the picture", picture.fields),
    table("From the camera", picture.exif),
    table("For machines", { "sha256 of the original": picture.sha256, "codec": picture.codec_id || "none", "run": picture.run_id, "mode": picture.mode || "", "coding": picture.payload_coding }),
  );
  cost(picture);
  neighbour("previous", picture.previous);
  neighbour("next", picture.next);
}).catch((error) => say(error.message, true));
update();
