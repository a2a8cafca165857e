"use strict";
// The page: asks for what is new, and shows it.

const EVERY = 2000; // milliseconds between two looks
const LIGHT = ["#0072b2", "#d55e00", "#009e73", "#b0568f", "#a87400", "#2f8fc4", "#5b4bb5", "#7a6a52", "#c2453d", "#444444"];
const DARK = ["#4fb0ee", "#ff8a3c", "#35cfa2", "#e9a3c9", "#e6b84a", "#9ad4f5", "#b3a6ff", "#c9b79a", "#ff9c94", "#c8cdd3"];
const $ = (id) => document.getElementById(id);
const model = new Model();
const view = { curves: ["return", "kl"], lines: "settings", across: "steps", env: "", filter: "", swept: "", hidden: new Set() };
const kept = new Set();
const acts = { pick, keep, say: (text) => ($("live").textContent = text) };
const charts = ["first", "second", "third"].map((id) => new Chart($(id), acts));
const table = new Rows($("table"), acts);
const dark = matchMedia("(prefers-color-scheme: dark)");
let active = null;
table.kept = kept;

async function look() {
  try {
    const anew = document.hidden ? false : await model.update(view.curves);
    $("trouble").hidden = true;
    if (anew) options();
    if (!document.hidden) [folders, findings].forEach((show) => show());
    if (anew || look.stamp !== model.stamp) redraw();
    look.stamp = model.stamp;
  } catch (error) {
    $("trouble").hidden = false;
    $("trouble").textContent = `The server gives no answer (${error.message}), so what is shown is old. Is kltrust watch still running? This page tries again.`;
  }
  clearTimeout(look.timer);
  look.timer = setTimeout(look, EVERY);
}

/** Fills a list of choices and keeps what is chosen, if it is still there. */
function choose(select, names, value, texts = names) {
  select.replaceChildren(...names.map((name, i) => new Option(texts[i], name)));
  select.value = names.includes(value) ? value : (names[0] ?? "");
  return select.value;
}

function options() {
  view.env = choose($("env"), model.envs, view.env);
  $("env-label").hidden = model.envs.length < 2;
  const shown = model.curves.length ? model.curves : view.curves;
  ["first", "second"].forEach((id, i) => (view.curves[i] = choose($(id).querySelector("select"), shown, view.curves[i])));
  sweeps();
}

function sweeps() {
  const keys = model.swept(model.settings.filter((s) => s.env === view.env));
  const names = keys.length ? keys : ["seed"];
  view.swept = choose($("third").querySelector("select"), names, view.swept, names.map(bare));
}

/** A setting's name without its section. */
function bare(name) {
  return name.replace(/^(update|learner)\./, "");
}

function folders() {
  const shown = model.folders.map((folder) => {
    const item = document.createElement("li");
    const left = folder.left === null ? "" : `, ${time(folder.left)} left`;
    const ago = folder.ago === null || folder.state === "finished" ? "" : `; last sign ${time(folder.ago)} ago`;
    const part = (tag, text, name = "") => Object.assign(document.createElement(tag), { textContent: text, className: name });
    const head = part("div", "", "head");
    head.append(part("strong", folder.name), part("span", `${folder.state}, ${percent(folder.done)}${left}`, `state ${folder.state}`));
    const bar = Object.assign(document.createElement("progress"), { max: 1, value: folder.done });
    bar.setAttribute("aria-label", `${folder.name}: ${percent(folder.done)}`);
    item.append(head, bar);
    if (folder.state !== "finished") item.append(part("small", `${folder.sentence}${ago}`));
    item.title = folder.path;
    return item;
  });
  $("folders").replaceChildren(...shown);
  document.title = model.folders.map((f) => `${percent(f.done)} ${f.name}`).join(", ") + ": kltrust watch";
}

function percent(share) {
  return share === 1 ? "100 %" : `${Math.min(99, Math.floor(100 * share))} %`;
}

function time(seconds) {
  const s = Math.round(seconds);
  if (s >= 86400) return `${Math.round(s / 86400)} d`;
  if (s >= 3600) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return s >= 60 ? `${Math.floor(s / 60)} min ${s % 60} s` : `${s} s`;
}

/** Colours by what differs: the method, or of one method with few settings the setting. */
function colours(settings) {
  const methods = new Set(settings.map((s) => s.method));
  const labels = new Set(settings.map((s) => s.name));
  const by = methods.size === 1 && labels.size <= 8 ? "name" : "method";
  const palette = dark.matches ? DARK : LIGHT;
  const names = [...new Set(model.settings.map((s) => s[by]))].filter((n) => settings.some((s) => s[by] === n));
  const of = new Map(names.map((name, i) => [name, palette[i % palette.length]]));
  return { by, of, colour: (setting) => of.get(setting[by]) };
}

function redraw() {
  const start = performance.now();
  const settings = model.settings.filter((s) => s.env === view.env || !view.env);
  const paint = colours(settings);
  const list = view.lines === "runs" ? settings.flatMap((s) => s.runs) : settings;
  const rows = [];
  for (const one of list) {
    const setting = one.setting ?? one;
    const cells = rowOf(model, one, view.lines);
    const cell = (name) => cells[name] ?? cells[Object.keys(cells).find((t) => t.startsWith(name))] ?? sweptOf(setting, name);
    if (!passes(view.filter, `${one.name} ${setting.env}`, cell) || view.hidden.has(setting[paint.by])) continue;
    rows.push({ ref: one.ref, cells, one, colour: paint.colour(setting) });
  }
  $("rows").textContent = `${view.lines === "runs" ? "Runs" : "Settings"}: ${rows.length === list.length ? list.length : `${rows.length} of ${list.length}`}`;
  view.curves.forEach((name, i) => charts[i].show(curves(name, rows)));
  charts[2].show(scatter(rows));
  for (const row of rows) delete row.cells.environment; // one is chosen above
  table.show(rows, ["run", "setting"]);
  legend(paint);
  findings();
  mark();
  document.documentElement.dataset.redraw = (performance.now() - start).toFixed(1);
  document.documentElement.dataset.rows = rows.length;
}

function sweptOf(setting, name) {
  const key = Object.keys(setting.swept).find((k) => bare(k).toLowerCase() === name || k.toLowerCase() === name);
  return key && setting.swept[key];
}

/** The lines of a curve: of each row, and in the back of each run where rows are means. */
function curves(name, rows) {
  const [lines, marks] = [[], new Map()];
  for (const { one, ref, colour } of rows) {
    const runs = one.runs ?? [one];
    if (one.runs && runs.length > 1) {
      for (const run of runs) {
        const y = model.ys(run, name);
        if (y) lines.push({ x: model.xs(run, name, view.across), y, colour, alpha: 0.3, thin: true });
      }
    }
    const mean = one.runs ? model.mean(one, name) : { y: model.ys(one, name), run: one };
    if (mean?.y) lines.push({ x: model.xs(mean.run, name, view.across), y: mean.y, colour, ref, aim: true, name: one.name });
    const claim = (one.setting ?? one).claim;
    if (name === "kl" && claim !== null) marks.set(`${claim} ${colour}`, { y: [claim, claim], colour });
  }
  if (name === "kl / claim") marks.set("1", { y: [1, 1], colour: charts[0].colours?.ink ?? "#888888" });
  const ends = lines.filter((l) => l.x.length).map((l) => l.x[l.x.length - 1]);
  const end = ends.length ? Math.max(...ends) : 1;
  const shown = marks.size <= 12 ? [...marks.values()].map((mark) => ({ ...mark, x: [0, end] })) : [];
  const across = view.across === "steps" ? "environment steps" : "iterations";
  return { lines, marks: shown, ylog: /^kl/.test(name), xtitle: across, ytitle: name, title: `${name} of ${rows.length} ${view.lines} along ${across}`, why: rows.length ? "" : "nothing passes the filter" };
}

/** Points of the score against a swept setting; words, and numbers that are few, stand in a row. */
function scatter(rows) {
  const value = (row) => (view.swept === "seed" ? row.one.seed : (row.one.setting ?? row.one).swept[view.swept]);
  const there = rows.filter((row) => value(row) !== undefined);
  const values = [...new Set(there.map(value))];
  const plain = values.every((v) => typeof v === "number");
  const names = plain ? null : values.map(String);
  const xlog = plain && values.every((v) => v > 0) && Math.max(...values) / Math.min(...values) > 20;
  const lines = there.map((row) => ({
    x: [names ? names.indexOf(String(value(row))) : value(row)], y: [row.cells.score], colour: row.colour, ref: row.ref, aim: true, name: row.one.name,
  }));
  return { lines, dots: true, names, xlog, xtitle: bare(view.swept), ytitle: "score", title: `score against ${bare(view.swept)}`, why: "no run has this setting and a score yet" };
}

function legend({ by, of }) {
  const items = [...of].slice(0, 40).map(([name, colour]) => {
    const [item, button, chip] = ["li", "button", "i"].map((tag) => document.createElement(tag));
    chip.style.background = colour;
    button.type = "button";
    button.setAttribute("aria-pressed", String(!view.hidden.has(name)));
    button.append(chip, name);
    button.onclick = () => {
      view.hidden.delete(name) || view.hidden.add(name);
      redraw();
      [...$("legend").querySelectorAll("button")].find((b) => b.textContent === name)?.focus();
    };
    item.append(button);
    return item;
  });
  $("legend").replaceChildren(...(of.size > 1 || by === "method" ? items : []));
}

function findings() {
  const place = $("findings").querySelector("div");
  const many = model.folders.length > 1;
  const all = model.folders.flatMap((folder) => folder.findings.map((row) => ({ ...row, folder: folder.name })));
  const judged = model.folders.reduce((sum, folder) => sum + folder.judged, 0);
  const decided = model.folders.flatMap((folder) => folder.decisions.map((line) => (many ? `${folder.name}: ${line}` : line)));
  const text = JSON.stringify([all, judged, decided]);
  if (findings.shown === text) return;
  findings.shown = text;
  const shown = all.map((row) => {
    const part = (tag, text, name = "") => Object.assign(document.createElement(tag), { textContent: text, className: name });
    const [box, head] = [document.createElement("details"), document.createElement("summary")];
    const runs = row.of > 1 ? ` (${row.runs} of ${row.of} runs)` : "";
    head.append(part("span", row.severity, row.severity), ` ${many ? `${row.folder}: ` : ""}${row.name}${runs}: ${row.says}`);
    box.append(head, part("p", `${row.evidence}${row.where ? ` [${row.where}]` : ""}`), part("p", `Usually: ${row.means}`), part("p", `Try: ${row.remedy}`));
    return box;
  });
  const note = document.createElement("p");
  const of = `${judged} of ${model.runs.length} runs`;
  note.textContent = judged ? `The judge has looked at ${of}${shown.length ? "." : " and found nothing."}` : "The judge looks a few seconds after the first commit, and takes a hundredth of a processor.";
  place.replaceChildren(note, ...shown, ...(decided.length ? [decisions(decided)] : []));
}

/** The last decisions of a search, in a list that opens. */
function decisions(lines) {
  const [box, head, list] = ["details", "summary", "ul"].map((tag) => document.createElement(tag));
  head.textContent = `The search's last ${lines.length} decisions: ${lines[0]}`;
  list.append(...lines.slice(1).map((line) => Object.assign(document.createElement("li"), { textContent: line })));
  box.append(head, list);
  return box;
}

function pick(ref) {
  active = ref;
  mark();
}

function keep(ref) {
  kept.delete(ref) || kept.add(ref);
  mark();
}

function mark() {
  for (const chart of charts) {
    Object.assign(chart, { active, kept });
    chart.over();
  }
  table.mark(active, kept);
}

function listen() {
  $("env").onchange = (e) => { view.env = e.target.value; sweeps(); redraw(); };
  $("lines").onchange = (e) => { view.lines = e.target.value; redraw(); };
  $("across").onchange = (e) => { view.across = e.target.value; redraw(); };
  $("filter").oninput = (e) => { view.filter = e.target.value.trim(); redraw(); };
  ["first", "second"].forEach((id, i) => ($(id).querySelector("select").onchange = (e) => { view.curves[i] = e.target.value; look.stamp = -1; look(); }));
  $("third").querySelector("select").onchange = (e) => { view.swept = e.target.value; redraw(); };
  $("controls").onsubmit = (e) => e.preventDefault();
  dark.onchange = redraw;
  document.onvisibilitychange = () => document.hidden || look();
  new ResizeObserver(() => charts.forEach((chart) => chart.width !== chart.plot.clientWidth && chart.x && chart.draw())).observe(document.body);
}

listen();
look();
