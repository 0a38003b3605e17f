// Before and after: two versions of a picture with a divider between them, and a detail of every version beside its residual.

/** The file in base64 that the page holds for one version of one example, as an image. */
async function decodePicture(example, version, mediaType) {
  const binary = atob(byId(`pixels-${example}-${version}`).textContent);
  const bytes = Uint8Array.from(binary, (character) => character.charCodeAt(0));
  return createImageBitmap(new Blob([bytes], { type: mediaType }), { colorSpaceConversion: "none", premultiplyAlpha: "none" });
}

/** Gray where the pictures are equal in the window, brighter where `image` is brighter. */
function residualOf(image, original, { left, top, width, height }, gain) {
  const [ours, theirs] = [image, original].map((bitmap) => pixelsOf(bitmap, { left, top, width, height }));
  for (let i = 0; i < ours.data.length; i += 1) {
    ours.data[i] = i % 4 === 3 ? 255 : 128 + gain * (ours.data[i] - theirs.data[i]);
  }
  return ours;
}

function pixelsOf(bitmap, { left, top, width, height }) {
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, left, top, width, height, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

/** The squared differences of two pictures' pixels inside a square, every second of them. */
function differences(a, b, stride, { x, y, side }) {
  let sum = 0;
  for (let row = y; row < y + side; row += 2) {
    for (let i = 4 * (row * stride + x); i < 4 * (row * stride + x + side); i += 8) {
      sum += (a[i] - b[i]) ** 2 + (a[i + 1] - b[i + 1]) ** 2 + (a[i + 2] - b[i + 2]) ** 2;
    }
  }
  return sum;
}

class Pictures {
  constructor(examples) {
    this.examples = examples;
    this.divide = 50;
    this.images = [];
    this.thumbs();
    this.listen();
    this.open(0);
  }

  /** One radio button a picture; its image is decoded when it comes into view. */
  thumbs() {
    const seen = new IntersectionObserver((entries) => {
      for (const { isIntersecting, target } of entries) {
        if (!isIntersecting) continue;
        seen.unobserve(target);
        this.thumb(target);
      }
    }, { rootMargin: "200px" });
    this.examples.forEach((example, number) => {
      const input = make("input", { type: "radio", name: "example", value: number, "aria-label": example.key });
      input.checked = number === 0;
      const canvas = make("canvas", { width: 96, height: 72, "data-example": number, "aria-hidden": "true" });
      byId("thumbs").append(make("label", { title: example.key }, input, canvas));
      seen.observe(canvas);
    });
    onChoice("example", (value) => this.open(Number(value)));
  }

  async thumb(canvas) {
    const number = Number(canvas.dataset.example);
    const image = await decodePicture(number, 0, this.examples[number].mediaType).catch(() => null);
    if (!image) return;
    const scale = Math.max(canvas.width / image.width, canvas.height / image.height);
    const [width, height] = [canvas.width / scale, canvas.height / scale];
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(image, (image.width - width) / 2, (image.height - height) / 2, width, height, 0, 0, canvas.width, canvas.height);
    image.close();
  }

  listen() {
    for (const id of ["left", "right", "residual"]) byId(id).addEventListener("change", () => this.paint());
    byId("gain").addEventListener("change", () => this.paint());
    byId("detail").addEventListener("change", () => this.moveLoupe(0, 0));
    onDrag(byId("stage"), (event) => {
      const box = byId("stage").getBoundingClientRect();
      this.moveDivider((100 * (event.clientX - box.left)) / box.width);
    });
    const loupe = byId("loupe");
    loupe.addEventListener("pointerdown", (event) => event.stopPropagation());
    let grip = null;
    onDrag(loupe, (event, first) => {
      const box = byId("stage").getBoundingClientRect();
      const [x, y] = [((event.clientX - box.left) / box.width) * this.example.width, ((event.clientY - box.top) / box.height) * this.example.height];
      if (first) {
        grip = { x: x - this.loupe.x, y: y - this.loupe.y };
        loupe.focus();
      }
      this.loupe = { x: x - grip.x, y: y - grip.y };
      this.moveLoupe(0, 0);
    });
    byId("divider").addEventListener("keydown", (event) => this.dividerKey(event));
    loupe.addEventListener("keydown", (event) => this.loupeKey(event));
  }

  /** Decodes every version of an example, then shows it; the one before is let go. */
  async open(number) {
    this.number = number;
    const example = this.examples[number];
    const images = await Promise.all(example.versions.map((_, version) => decodePicture(number, version, example.mediaType))).catch((error) => error);
    if (this.number !== number) return;
    byId("example-key").textContent = example.key;
    byId("example-place").textContent = example.place;
    if (images instanceof Error) {
      byId("pictures-said").textContent = `This picture cannot be shown: ${images.message}`;
      return;
    }
    this.images.forEach((image) => image.close());
    this.images = images;
    this.example = example;
    this.window = { left: 0, top: 0, width: example.width, height: example.height };
    this.versions();
    this.layOut();
    this.loupe = this.worst();
    this.moveDivider(this.divide);
    this.moveLoupe(0, 0);
    this.paint();
  }

  /** Fills both lists; what was compared before stays chosen where this picture has it too. */
  versions() {
    for (const [id, usual] of [["left", 0], ["right", 1]]) {
      const list = byId(id);
      const before = list.selectedOptions[0]?.textContent;
      list.replaceChildren(...this.example.versions.map(({ label }, version) => make("option", { value: version }, label)));
      const same = this.example.versions.findIndex(({ label }) => label === before);
      list.selectedIndex = same >= 0 ? same : Math.min(usual, this.example.versions.length - 1);
    }
    byId("details").replaceChildren(...this.example.versions.map((version, number) => this.detail(version, number)));
  }

  detail({ label, figures }, number) {
    const picture = make("canvas", { role: "img", "aria-label": `Detail, ${label}` });
    const rest = number ? [make("canvas", { role: "img", "aria-label": `Residual, ${label}` })] : [make("span", { class: "fine gain", "aria-hidden": "true" })];
    return make("li", {}, picture, ...rest, make("div", {}, make("strong", {}, label), ...figures.map((text) => make("span", {}, text))));
  }

  /** The stage takes the picture's shape, at most twice its size; a tiny one in pixels that can be seen. */
  layOut() {
    const { width, height } = this.example;
    const stage = byId("stage");
    stage.style.aspectRatio = `${width} / ${height}`;
    const enlarged = Math.max(2, Math.floor(336 / Math.max(width, height)));
    stage.classList.toggle("tiny", enlarged > 2);
    stage.style.maxWidth = `min(${enlarged * width}px, calc(72vh * ${width / height}))`;
  }

  /** Where the first codec's picture differs most from the original: a detail of plain sky tells nothing. */
  worst() {
    const side = this.side();
    const step = Math.max(1, Math.floor(side / 2));
    const [original, coded] = [this.images[0], this.images[1] ?? this.images[0]].map((image) => pixelsOf(image, this.window).data);
    let best = { x: 0, y: 0, sum: -1 };
    for (let y = 0; y + side <= this.window.height; y += step) {
      for (let x = 0; x + side <= this.window.width; x += step) {
        const sum = differences(original, coded, this.window.width, { x, y, side });
        if (sum > best.sum) best = { x, y, sum };
      }
    }
    return best;
  }

  side() {
    return Math.min(Number(byId("detail").value), this.example.width, this.example.height);
  }

  paint() {
    const residual = byId("residual").checked;
    for (const [id, canvas, tag] of [["left", "over", "left-tag"], ["right", "under", "right-tag"]]) {
      const version = Number(byId(id).value);
      const { label } = this.example.versions[version];
      const text = residual && version ? `${label}, residual × ${byId("gain").value}` : label;
      this.put(byId(canvas), version, residual && version > 0, this.window);
      byId(canvas).setAttribute("aria-label", `${this.example.key}: ${text}`);
      byId(tag).textContent = text;
    }
    byId("details").querySelector(".gain").textContent = `residual × ${byId("gain").value}`;
    this.paintDetails();
    this.say();
  }

  paintDetails() {
    const side = this.side();
    const window = { left: Math.round(this.loupe.x), top: Math.round(this.loupe.y), width: side, height: side };
    [...byId("details").children].forEach((item, version) => {
      item.querySelectorAll("canvas").forEach((canvas, part) => this.put(canvas, version, part === 1, window));
    });
  }

  put(canvas, version, residual, window) {
    canvas.width = window.width;
    canvas.height = window.height;
    const context = canvas.getContext("2d");
    if (residual) context.putImageData(residualOf(this.images[version], this.images[0], window, Number(byId("gain").value)), 0, 0);
    else context.drawImage(this.images[version], window.left, window.top, window.width, window.height, 0, 0, window.width, window.height);
  }

  say() {
    const parts = ["left", "right"].map((id) => this.example.versions[Number(byId(id).value)]);
    byId("pictures-said").textContent = parts.map(({ label, figures }) => `${label}: ${figures.join(", ")}`).join("  |  ");
  }

  moveDivider(percent) {
    this.divide = clamp(percent, 0, 100);
    const divider = byId("divider");
    divider.style.left = `${this.divide}%`;
    byId("over").style.clipPath = `inset(0 ${100 - this.divide}% 0 0)`;
    divider.setAttribute("aria-valuenow", Math.round(this.divide));
    divider.setAttribute("aria-valuetext", `${Math.round(this.divide)} % left`);
  }

  dividerKey(event) {
    const steps = { ArrowLeft: -2, ArrowDown: -2, ArrowRight: 2, ArrowUp: 2, PageDown: -10, PageUp: 10, Home: -100, End: 100 };
    if (!(event.key in steps)) return;
    event.preventDefault();
    this.moveDivider(this.divide + steps[event.key]);
  }

  moveLoupe(x, y) {
    const { width, height } = this.example;
    const side = this.side();
    this.loupe = { x: clamp(this.loupe.x + x, 0, width - side), y: clamp(this.loupe.y + y, 0, height - side) };
    const loupe = byId("loupe");
    for (const [name, part] of [["left", this.loupe.x / width], ["top", this.loupe.y / height], ["width", side / width], ["height", side / height]]) {
      loupe.style[name] = `${100 * part}%`;
    }
    loupe.setAttribute("aria-label", `Detail, ${side} pixels from ${Math.round(this.loupe.x)}, ${Math.round(this.loupe.y)}`);
    this.paintDetails();
  }

  loupeKey(event) {
    const far = event.shiftKey ? 1 : 8;
    const steps = { ArrowLeft: [-far, 0], ArrowRight: [far, 0], ArrowUp: [0, -far], ArrowDown: [0, far] };
    if (!(event.key in steps)) return;
    event.preventDefault();
    this.moveLoupe(...steps[event.key]);
  }
}
