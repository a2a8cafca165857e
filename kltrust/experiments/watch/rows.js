"use strict";
// The table of all runs: only the rows in sight are elements, so that thousands cost nothing.

const HIGH = 30.4; // pixels of a row, as the style sheet has it: 1.9rem

class Rows {
  constructor(box, { pick, keep, say }) {
    Object.assign(this, { box, pick, keep, say, state: ["score", "descending"], rows: [], titles: [] });
    [this.head, this.body] = [box.querySelector("thead tr"), box.querySelector("tbody")];
    box.onscroll = () => this.draw();
    box.onkeydown = (event) => this.key(event);
    box.onpointerleave = () => this.pick(null);
  }

  /** Shows rows: objects by title, with the ref of each; `words` are titles of text columns. */
  show(rows, words) {
    const titles = rows.length ? Object.keys(rows[0].cells) : this.titles;
    if (titles.join() !== this.titles.join()) this.heads(titles, words);
    [this.all, this.words] = [rows, words];
    this.sort();
  }

  heads(titles, words) {
    this.titles = titles;
    if (!titles.includes(this.state[0])) this.state = ["score", "descending"];
    this.shows = titles.map((title) => {
      const cell = document.createElement("th");
      cell.scope = "col";
      if (!words.includes(title)) cell.className = "number";
      cell.textContent = title;
      const show = sortButton(cell, () => {
        this.state = [title, nextState(this.state[0] === title ? this.state[1] : "")];
        this.sort();
      });
      return [title, cell, show];
    });
    this.head.replaceChildren(...this.shows.map(([, cell]) => cell));
  }

  sort() {
    const [by, state] = this.state;
    for (const [title, , show] of this.shows) show(title === by ? state : "");
    const order = state ? ordered(this.all.map((row) => row.cells[by]), state === "descending") : this.all.keys();
    this.rows = [...order].map((i) => this.all[i]);
    this.box.querySelector("table").setAttribute("aria-rowcount", this.rows.length + 1);
    this.draw();
  }

  /** Makes the rows in sight, and empty room for the others. */
  draw() {
    const seen = Math.ceil(this.box.clientHeight / HIGH) || 20;
    const first = Math.max(0, Math.min(this.rows.length - seen, Math.floor(this.box.scrollTop / HIGH) - 5));
    const last = Math.min(this.rows.length, first + seen + 10);
    const shown = this.rows.slice(first, last).map((row, i) => {
      const line = document.createElement("tr");
      line.setAttribute("aria-rowindex", first + i + 2);
      line.classList.toggle("active", row.ref === this.active);
      line.classList.toggle("kept", this.kept.has(row.ref));
      this.titles.forEach((title, c) => {
        const cell = document.createElement(c ? "td" : "th");
        if (!c) cell.scope = "row";
        if (!this.words.includes(title)) cell.className = "number";
        cell.textContent = written(title, row.cells[title]);
        line.append(cell);
      });
      line.onpointerenter = () => this.pick(row.ref);
      line.onclick = () => this.keep(row.ref);
      return line;
    });
    this.body.replaceChildren(space(first, this.titles.length), ...shown, space(this.rows.length - last, this.titles.length));
  }

  /** Shows which row is in front, and which ones are kept. */
  mark(active, kept) {
    [this.active, this.kept] = [active, kept];
    if (this.all) this.draw();
  }

  key(event) {
    if (event.target !== this.box) return;
    const at = this.rows.findIndex((row) => row.ref === this.active);
    if (event.key === "Enter" && at >= 0) return this.keep(this.active);
    const page = Math.max(1, Math.floor(this.box.clientHeight / HIGH) - 2);
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined || !this.rows.length) return;
    event.preventDefault();
    const next = Math.max(0, Math.min(this.rows.length - 1, at + step));
    const top = next * HIGH;
    if (top < this.box.scrollTop) this.box.scrollTop = top;
    if (top + 3 * HIGH > this.box.scrollTop + this.box.clientHeight) this.box.scrollTop = top + 3 * HIGH - this.box.clientHeight;
    const row = this.rows[next];
    this.pick(row.ref);
    this.say(this.titles.map((title) => `${title} ${written(title, row.cells[title])}`).join(", "));
  }
}

function space(rows, columns) {
  const line = document.createElement("tr");
  const cell = document.createElement("td");
  line.className = "space";
  line.setAttribute("aria-hidden", "true");
  cell.colSpan = columns;
  cell.style.height = `${Math.max(0, rows) * HIGH}px`;
  line.append(cell);
  return line;
}

/** A cell as text. */
function written(title, value) {
  if (typeof value !== "number") return value;
  if (title === "beyond it") return value === value ? `${shortly(100 * value)} %` : "–";
  if (Number.isInteger(value)) return String(value);
  return shortly(value);
}
