// Curves as soon as they are read; pictures when the whole file is, as theirs come last in it.

for (const element of document.querySelectorAll(".live")) element.hidden = false;
const found = JSON.parse(byId("data").textContent);
new Curves(found);
if (found.examples.length) {
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", () => new Pictures(found.examples));
  else new Pictures(found.examples);
}
