// A grid that scrolls through millions of pictures: only what is seen is there. A browser cannot make an element higher than
// some ten million pixels, so beyond HIGHEST the scrollbar stands for a part, and small movements count as they are.

import { clamp } from "./dom.js";

const HIGHEST = 8_000_000;
const MARGIN_ROWS = 2;
const SETTLE_MS = 160;

export class Grid {
  /** `cell(index)` gives the <li> of a picture, which has one link. */
  constructor(scroller, list, cell) {
    Object.assign(this, { scroller, list, cell, total: 0, columns: 1, side: 100, height: 100, top: 0, shown: new Map(), focused: 0 });
    this.expected = 0;
    scroller.addEventListener("scroll", () => this.scrolled(), { passive: true });
    scroller.addEventListener("keydown", (event) => this.pressed(event));
    list.addEventListener("focusin", (event) => {
      const item = event.target.closest("li");
      if (item) this.markFocus(Number(item.dataset.index));
    });
    new ResizeObserver(() => this.measure()).observe(scroller);
  }

  get rows() { return Math.ceil(this.total / this.columns); }
  get contentHeight() { return this.rows * this.height; }
  get view() { return this.scroller.clientHeight; }
  get farthest() { return Math.max(0, this.contentHeight - this.view); }
  /** Pixels of content for one of the scrollbar. */
  get ratio() { return this.contentHeight > HIGHEST ? this.farthest / (HIGHEST - this.view) : 1; }

  /** Shows `total` other pictures, from `index` on. */
  reset(total, index = 0) {
    this.total = total;
    this.clear();
    this.focused = clamp(index, 0, Math.max(0, total - 1));
    this.measure();
    this.jump(Math.floor(this.focused / this.columns) * this.height);
  }

  clear() {
    for (const item of this.shown.values()) item.remove();
    this.shown.clear();
  }

  measure() {
    const width = this.scroller.clientWidth;
    if (!width) return;
    const first = Math.floor(this.top / this.height) * this.columns;
    const narrow = window.innerWidth <= 700;
    const columns = Math.max(narrow ? 3 : 2, Math.floor(width / (narrow ? 150 : 190)));
    const side = width / columns;
    const height = Math.round(narrow ? side : side * 0.8 + 27);
    const changed = columns !== this.columns || height !== this.height || side !== this.side;
    Object.assign(this, { columns, side, height });
    this.list.style.height = `${Math.min(HIGHEST, this.contentHeight)}px`;
    if (changed) {
      this.clear();
      this.jump(Math.floor(first / columns) * height);
    }
    this.render();
  }

  /** Moves to a place of the content. */
  jump(top) {
    this.top = clamp(top, 0, this.farthest);
    this.settle();
    this.render();
  }

  settle() {
    this.expected = Math.round(this.top / this.ratio);
    this.scroller.scrollTop = this.expected;
    this.expected = this.scroller.scrollTop;
  }

  scrolled() {
    const now = this.scroller.scrollTop;
    const moved = now - this.expected;
    this.expected = now;
    if (moved === 0) return;
    const small = this.ratio > 1 && Math.abs(moved) < this.view && now > 0 && now < this.scroller.scrollHeight - this.view;
    this.top = clamp(small ? this.top + moved : now * this.ratio, 0, this.farthest);
    this.render();
    clearTimeout(this.settling);
    if (this.ratio > 1) this.settling = setTimeout(() => this.settle(), SETTLE_MS);
    // what lies at `now` of the list stays in view while the content moves below it
  }

  render() {
    const first = Math.max(0, Math.floor(this.top / this.height) - MARGIN_ROWS);
    const last = Math.min(this.rows, Math.ceil((this.top + this.view) / this.height) + MARGIN_ROWS);
    const from = first * this.columns;
    const until = Math.min(this.total, last * this.columns);
    for (const [index, item] of this.shown) {
      if (index < from || index >= until) {
        item.remove();
        this.shown.delete(index);
      }
    }
    const offset = this.expected - this.top;
    for (let index = from; index < until; index += 1) {
      let item = this.shown.get(index);
      if (!item) {
        item = this.cell(index);
        item.dataset.index = index;
        item.setAttribute("aria-setsize", this.total);
        item.setAttribute("aria-posinset", index + 1);
        item.style.width = `${this.side}px`;
        item.style.height = `${this.height}px`;
        item.firstChild.tabIndex = index === this.focused ? 0 : -1;
        this.shown.set(index, item);
        this.list.append(item);
      }
      const x = (index % this.columns) * this.side;
      const y = Math.floor(index / this.columns) * this.height + offset;
      item.style.transform = `translate(${x}px, ${y}px)`;
    }
  }

  markFocus(index) {
    this.shown.get(this.focused)?.firstChild.setAttribute("tabindex", -1);
    this.focused = index;
    this.shown.get(index)?.firstChild.setAttribute("tabindex", 0);
  }

  /** Brings a picture into view and focuses it. */
  focus(index) {
    this.markFocus(clamp(index, 0, this.total - 1));
    const top = Math.floor(this.focused / this.columns) * this.height;
    if (top < this.top) this.jump(top);
    else if (top + this.height > this.top + this.view) this.jump(top + this.height - this.view);
    this.markFocus(this.focused);
    this.shown.get(this.focused)?.firstChild.focus({ preventScroll: true });
  }

  pressed(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || !this.total) return;
    const page = Math.max(1, Math.floor(this.view / this.height)) * this.columns;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns, PageUp: -page, PageDown: page,
      Home: -this.total, End: this.total };
    const step = steps[event.key];
    if (step === undefined) return;
    event.preventDefault();
    this.focus(this.focused + step);
  }
}
