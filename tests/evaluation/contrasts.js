// The contrast (WCAG 2.2) of every text that is shown with what lies behind it: [how many, those below 4.5, or 3 where large].
const channels = (colour) => {
  const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  context.fillStyle = colour;
  context.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
  return [r, g, b, a / 255];
};
const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
const luminance = (colour) => {
  const [r, g, b] = colour.map((value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ancestors = (element) => (element ? [element, ...ancestors(element.parentElement)] : []);
const behind = (element) => ancestors(element).reverse().reduce((below, one) => over(channels(getComputedStyle(one).backgroundColor), below), [255, 255, 255, 1]);

let checked = 0;
const poor = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  const style = getComputedStyle(element);
  if (!walker.currentNode.data.trim() || !element.checkVisibility({ visibilityProperty: true }) || element.closest("script, style, noscript, .hidden")) continue;
  checked += 1;
  const opacity = ancestors(element).reduce((all, one) => all * Number(getComputedStyle(one).opacity), 1);
  const paper = behind(element);
  const ink = channels(element instanceof SVGElement ? style.fill : style.color);
  const lights = [over([...ink.slice(0, 3), ink[3] * opacity], paper), paper].map(luminance).sort((a, b) => b - a);
  const contrast = (lights[0] + 0.05) / (lights[1] + 0.05);
  const size = parseFloat(style.fontSize);
  const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
  if (contrast < (large ? 3 : 4.5)) poor.push(`${walker.currentNode.data.trim().slice(0, 30)}: ${contrast.toFixed(2)}`);
}
// Curves and their signs need 3 : 1 (WCAG 1.4.11).
for (const mark of document.querySelectorAll("#series .mark, #plot .curve")) {
  checked += 1;
  const lights = [channels(getComputedStyle(mark).color), behind(mark)].map(luminance).sort((a, b) => b - a);
  if ((lights[0] + 0.05) / (lights[1] + 0.05) < 3) poor.push(`curve ${mark.getAttribute("class")}`);
}
return [checked, poor];
