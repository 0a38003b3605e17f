// The gallery: folders, search and filters on the one side, the grid on the other. What is shown is in the page's address.

import { api, archive, byId, bytes, count, lastPart, load, make, visible } from "./dom.js";
import { Grid } from "./grid.js";
import { Tree } from "./tree.js";

const CHUNK = 200;
const KEPT_CHUNKS = 60;
const FIELDS = ["folder", "glob", "where", "outcome", "format", "psnr_min", "psnr_max", "ssimulacra2_min", "ssimulacra2_max", "bytes_min", "bytes_max",
  "since", "until", "sort", "descending"];
const RETRY_MS = 2500;

let query = Object.fromEntries([...new URLSearchParams(location.search)].filter(([name]) => FIELDS.includes(name)));
let chunks = new Map();
let generation = 0;

const grid = new Grid(byId("scroller"), byId("grid"), cell);
const tree = new Tree(byId("tree"), (folder) => change({ folder }, true));

function cell(index) {
  const link = make("a", { href: "#" }, make("span", { class: "frame" }), make("span", { class: "name" }));
  const item = make("li", {}, link);
  const known = chunks.get(Math.floor(index / CHUNK));
  if (known?.pictures) show(item, known.pictures[index % CHUNK]);
  else want(Math.floor(index / CHUNK));
  return item;
}

function show(item, picture) {
  if (!picture) return;
  const link = item.firstChild;
  const [frame, name] = link.children;
  link.href = `picture?${new URLSearchParams({ ...query, key: picture.key })}`;
  const size = picture.width ? `${picture.width} × ${picture.height}, ` : "";
  link.title = `${visible(picture.key)}\n${size}${bytes(picture.source_size)}, ${picture.outcome}`;
  name.textContent = lastPart(picture.key);
  const source = `thumb?${new URLSearchParams({ key: picture.key, side: window.devicePixelRatio > 1.5 ? 512 : 256, v: picture.v })}`;
  const image = make("img", { alt: "", decoding: "async", draggable: "false" });
  let tries = 0;
  image.addEventListener("error", () => {
    tries += 1;
    if (tries === 1 && picture.outcome === "cnn") setTimeout(() => { if (item.isConnected) image.src = source; }, RETRY_MS);
    else frame.replaceChildren(make("span", {}, picture.outcome === "cnn" ? "cannot be shown" : picture.source_format));
  });
  image.src = source;
  frame.replaceChildren(image);
}

async function want(number) {
  if (chunks.has(number)) return;
  const mine = generation;
  chunks.set(number, {});
  try {
    const found = await load(api("pictures", { ...query, offset: number * CHUNK, limit: CHUNK }));
    if (mine !== generation) return;
    chunks.delete(number);
    chunks.set(number, found);
    for (const old of chunks.keys()) if (chunks.size > KEPT_CHUNKS && old !== number) chunks.delete(old);
    if (found.total !== grid.total) grid.reset(found.total);
    for (const [index, item] of grid.shown) {
      if (Math.floor(index / CHUNK) === number) show(item, found.pictures[index % CHUNK]);
    }
  } catch (error) {
    if (mine !== generation) return;
    chunks.delete(number);
    say(error.message, true);
  }
}

/** Takes up the query: asks for its first pictures. */
async function search(index = 0) {
  generation += 1;
  const mine = generation;
  chunks = new Map();
  say("…");
  try {
    const found = await load(api("pictures", { ...query, offset: 0, limit: CHUNK }));
    if (mine !== generation) return;
    chunks.set(0, found);
    grid.reset(found.total, index);
    say(`${count(found.total, "picture")}${query.folder ? ` in ${visible(query.folder)}` : ""}`);
  } catch (error) {
    if (mine !== generation) return;
    grid.reset(0);
    say(error.message, true);
  }
}

function say(text, isFault = false) {
  byId("said").textContent = text;
  byId("said").classList.toggle("fault", isFault);
}

function change(values, isStep) {
  query = Object.fromEntries(Object.entries({ ...query, ...values }).filter(([, value]) => value !== "" && value !== undefined));
  const search_ = new URLSearchParams(query).toString();
  history[isStep ? "pushState" : "replaceState"](null, "", search_ ? `?${search_}` : location.pathname);
  fillForms();
  tree.open(query.folder || "");
  search();
}

function fillForms() {
  byId("glob").value = query.glob || "";
  for (const input of byId("filters").elements) {
    if (!input.name) continue;
    if (input.name.startsWith("bytes_")) input.value = query[input.name] ? Number(query[input.name]) / 1e6 : "";
    else input.value = query[input.name] || (input.name === "sort" ? "key" : "");
  }
}

function filtered() {
  const values = {};
  for (const input of byId("filters").elements) {
    if (!input.name) continue;
    values[input.name] = input.name.startsWith("bytes_") && input.value ? Math.round(Number(input.value) * 1e6) : input.value;
    if (input.name === "sort" && input.value === "key") values.sort = "";
  }
  change(values, false);
}

byId("search").addEventListener("submit", (event) => {
  event.preventDefault();
  change({ glob: byId("glob").value }, true);
});
byId("glob").addEventListener("search", () => change({ glob: byId("glob").value }, true));
byId("filters").addEventListener("submit", (event) => {
  event.preventDefault();
  filtered();
});
byId("filters").addEventListener("change", filtered);
byId("clear").addEventListener("click", () => change(Object.fromEntries(FIELDS.filter((name) => name !== "folder").map((name) => [name, ""])), false));
window.addEventListener("popstate", () => {
  query = Object.fromEntries(new URLSearchParams(location.search));
  fillForms();
  tree.open(query.folder || "");
  search();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !/INPUT|SELECT/.test(document.activeElement.tagName)) {
    event.preventDefault();
    byId("glob").focus();
  }
});

if (window.matchMedia("(max-width: 700px)").matches) for (const part of document.querySelectorAll("aside details")) part.open = false;
document.title = `${archive} · cnnbatch`;
byId("title").textContent = archive;
fillForms();
tree.open(query.folder || "");
search();
load("/api/archives").then(({ archives }) => {
  if (archives.length < 2) return;
  const choice = make("select", { "aria-label": "Archive" }, ...archives.map((name) => make("option", { value: name }, name)));
  choice.value = archive;
  choice.addEventListener("change", () => location.assign(`/a/${encodeURIComponent(choice.value)}/`));
  byId("title").replaceChildren(choice);
}).catch(() => {});
