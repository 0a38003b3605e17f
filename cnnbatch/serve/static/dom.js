// Making elements and text. Text only ever becomes text: nothing here, nor anywhere in these pages, parses HTML.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** make("td", { class: "n" }, "text", child …) */
export const make = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);

/** The same for SVG. */
export const draw = (name, attributes = {}, ...children) => fill(document.createElementNS(SVG, name), attributes, children);

export const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

/** The archive's name: all pages are at /a/NAME/… */
export const archive = decodeURIComponent(location.pathname.split("/")[2]);

/** An address of this archive's API with parameters; empty ones are left out. */
export function api(what, parameters = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) if (value !== "" && value !== null && value !== undefined) query.set(name, value);
  return `/api/${encodeURIComponent(archive)}/${what}?${query}`;
}

/** JSON of an address; throws an Error with the server's own sentence. One that is too busy is asked again. */
export async function load(address, options = {}) {
  for (let attempt = 0; ; attempt += 1) {
    const response = await fetch(address, options);
    if (response.status === 503 && attempt < 5) {
      await new Promise((go) => setTimeout(go, 1000 * Number(response.headers.get("Retry-After") || 2)));
      continue;
    }
    const content = await response.json().catch(() => ({ error: `the server answered ${response.status}` }));
    if (!response.ok) throw new Error(content.error || `the server answered ${response.status}`);
    return content;
  }
}

const whole = new Intl.NumberFormat("en");
export const count = (number, what) => `${whole.format(number)} ${what}${number === 1 ? "" : "s"}`;
export const number = (value) => whole.format(value);

/** 1234567 → "1.2 MB" */
export function bytes(value) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let power = 0;
  let rest = value;
  while (rest >= 999.5 && power < units.length - 1) {
    rest /= 1000;
    power += 1;
  }
  return `${power && rest < 99.95 ? rest.toFixed(1) : Math.round(rest)} ${units[power]}`;
}

export const day = (text) => (text ? String(text).slice(0, 10) : "");

/** Control characters and signs that turn the direction of text, written out. */
export const visible = (text) => String(text).replace(/[\u0000-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g,
  (sign) => `\\u${sign.charCodeAt(0).toString(16).padStart(4, "0")}`);

export const lastPart = (key) => visible(key.slice(key.lastIndexOf("/") + 1) || key);
