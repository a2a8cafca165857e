"use strict";
// Tables that one can sort and filter, for the report and for the page of `kltrust watch`.

const MISSING = ["", "–", "nan"];

/** The number that a cell begins with, as in "1,012", "93.8 [90.1, 95.0]", "< 0.1 %"; or NaN. */
function numberIn(text) {
  const cut = text.trim().replace(/[,\u00a0]/g, "").replace("−", "-");
  if (/^[+-]?inf/i.test(cut)) return cut.startsWith("-") ? -Infinity : Infinity;
  const found = /^([<>]?)\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)/i.exec(cut);
  if (!found) return NaN;
  const tiny = { "<": -1e-9, ">": 1e-9, "": 0 }[found[1]];
  return Number(found[2]) + tiny;
}

/** The order of values, numbers or texts: the missing ones last, equal ones as they stood. */
function ordered(values, down) {
  const sign = down ? -1 : 1;
  const missing = (v) => (typeof v === "number" ? Number.isNaN(v) : MISSING.includes(v));
  const compare = (a, b) =>
    typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true });
  return values
    .map((value, i) => [value, i])
    .sort(([a, i], [b, j]) => {
      if (missing(a) || missing(b)) return missing(a) - missing(b) || i - j;
      return sign * compare(a, b) || i - j;
    })
    .map(([, i]) => i);
}

/** Puts a button into a header cell; returns a function that shows "ascending", say, in it. */
function sortButton(cell, act) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "sort";
  button.title = "Sort by this column";
  button.append(...cell.childNodes);
  button.onclick = act;
  cell.append(button);
  return (state) => {
    if (state) cell.setAttribute("aria-sort", state);
    else cell.removeAttribute("aria-sort");
  };
}

/** The state after a click: ascending, descending, and as it was. */
function nextState(state) {
  return { "": "ascending", ascending: "descending", descending: "" }[state || ""];
}

/**
 * Whether a row passes a filter: each word is in its text, or is a condition on a number of it, as
 * in "trpo score>100". `cell` gives the value of a column by its name, or undefined.
 */
function passes(filter, text, cell) {
  return !filter || filter.split(/\s+/).every((word) => {
    const found = /^([\w. /]+?)(<=|>=|<|>|=)(.+)$/.exec(word);
    const value = found ? cell(found[1].toLowerCase()) : undefined;
    if (value === undefined) return text.toLowerCase().includes(word.toLowerCase());
    const number = Number(found[3]);
    if (Number.isNaN(number)) return String(value).toLowerCase() === found[3].toLowerCase();
    const left = typeof value === "number" ? value : numberIn(String(value));
    return {
      "<": left < number,
      ">": left > number,
      "<=": left <= number,
      ">=": left >= number,
      "=": left === number,
    }[found[2]];
  });
}

/** Makes the tables of a page sortable; those with many rows get a filter. */
function sortTables(root) {
  for (const table of root.querySelectorAll("table")) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const heads = [...table.tHead.rows[0].cells];
    // A table of facts, without a title above its names, stays as it is.
    if (rows.length < 2 || !heads[0].textContent.trim()) continue;
    const texts = rows.map((row) => [...row.cells].map((cell) => cell.textContent.trim()));
    const states = heads.map(() => "");
    const shows = heads.map((head, column) => sortButton(head, () => sort(column)));
    function sort(column) {
      const state = nextState(states[column]);
      states.fill("");
      states[column] = state;
      shows.forEach((show, i) => show(states[i]));
      const cells = texts.map((text) => text[column]);
      const numbers = cells.map(numberIn);
      const plain = cells.every((cell, i) => MISSING.includes(cell) || !Number.isNaN(numbers[i]));
      const order = state ? ordered(plain ? numbers : cells, state === "descending") : rows.keys();
      body.append(...[...order].map((i) => rows[i]));
    }
    if (rows.length > 12) table.parentNode.before(filterBox(heads, rows, texts));
  }
}

/** A field that hides the rows which do not pass what is typed, and says how many do. */
function filterBox(heads, rows, texts) {
  const names = heads.map((head) => head.textContent.trim().toLowerCase());
  const box = document.createElement("label");
  const field = document.createElement("input");
  const count = document.createElement("span");
  box.className = "filter";
  field.type = "search";
  field.placeholder = "words, or mean>100";
  count.setAttribute("role", "status");
  field.oninput = () => {
    let left = 0;
    rows.forEach((row, i) => {
      const cell = (name) => texts[i][names.indexOf(name)];
      row.hidden = !passes(field.value.trim(), texts[i].join(" "), cell);
      left += !row.hidden;
    });
    count.textContent = field.value.trim() ? `${left} of ${rows.length} rows` : "";
  };
  box.append("Filter the rows ", field, " ", count);
  return box;
}
