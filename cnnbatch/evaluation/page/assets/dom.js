// Making elements. Text only ever becomes text: nothing here, nor anywhere in the page, parses HTML.

const SVG = "http://www.w3.org/2000/svg";

const byId = (id) => document.getElementById(id);

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** make("td", { class: "n" }, "text", child …) */
const make = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);

/** The same for SVG. */
const draw = (name, attributes = {}, ...children) => fill(document.createElementNS(SVG, name), attributes, children);

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

/** Calls `move(event)` from a press on `element` until the pointer is let go. */
function onDrag(element, move) {
  let pointer = null;
  element.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    pointer = event.pointerId;
    element.setPointerCapture(pointer);
    event.preventDefault();
    move(event, true);
  });
  element.addEventListener("pointermove", (event) => {
    if (event.pointerId === pointer) move(event, false);
  });
  const end = () => { pointer = null; };
  element.addEventListener("pointerup", end);
  element.addEventListener("pointercancel", end);
}

/** The chosen value of the radio buttons named `name`; `changed` is called with each new one. */
function onChoice(name, changed) {
  for (const input of document.querySelectorAll(`input[name="${name}"]`)) {
    input.addEventListener("change", () => changed(input.value));
  }
}
