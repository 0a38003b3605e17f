// The folders of an archive as a tree; each is asked for when it is opened.

import { api, load, make, number, visible } from "./dom.js";

export class Tree {
  /** `chosen(folder)` is called with the path of the folder that is clicked. */
  constructor(root, chosen) {
    this.root = root;
    this.chosen = chosen;
    this.nodes = new Map();
    root.append(this.line("", "All pictures"));
  }

  line(path, name, total) {
    const link = make("a", { href: path ? `?${new URLSearchParams({ folder: path })}` : "?" }, name);
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      this.chosen(path);
    });
    if (total !== undefined) link.append(make("span", { class: "count" }, number(total)));
    const button = make("button", { type: "button", "aria-expanded": "false", "aria-label": `Folders in ${name}` }, "▸");
    const list = make("ul", { hidden: "" });
    const item = make("li", {}, make("div", { class: "line" }, button, link), list);
    button.addEventListener("click", () => this.toggle(path));
    this.nodes.set(path, { item, link, button, list, loaded: null });
    return item;
  }

  async toggle(path, isOpen) {
    const node = this.nodes.get(path);
    const opening = isOpen ?? node.list.hidden;
    if (opening) node.loaded ??= this.fill(path, node);
    await node.loaded;
    node.list.hidden = !opening;
    node.button.textContent = opening ? "▾" : "▸";
    node.button.setAttribute("aria-expanded", opening);
  }

  async fill(path, node) {
    try {
      const found = await load(api("folders", { folder: path }));
      for (const one of found.folders) node.list.append(this.line(one.path, visible(one.path.slice(path.length, -1)) || "/", one.count));
      if (found.more) node.list.append(make("li", { class: "soft" }, `${number(found.more)} more`));
      if (!found.folders.length) node.button.style.visibility = "hidden";
    } catch (error) {
      node.loaded = null;
    }
  }

  /** Shows a folder with all that it lies in, and marks it. */
  async open(folder) {
    for (const { link } of this.nodes.values()) link.removeAttribute("aria-current");
    const parts = folder.split("/").slice(0, -1);
    for (let depth = 0; depth <= parts.length; depth += 1) {
      const path = parts.slice(0, depth).map((part) => `${part}/`).join("");
      if (!this.nodes.has(path)) return;
      await this.toggle(path, true);
    }
    this.nodes.get(folder)?.link.setAttribute("aria-current", "true");
  }
}
