"use strict";
// What the page knows: the folders' state, brought up to date by what changed since the last time.

const COLUMNS = ["score", "kl", "largest", "beyond", "broken", "iterations"];
const EVALUATED = ["return", "return, sampled"];

/** Numbers of base64, as the server packs them. */
function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

class Model {
  constructor() {
    this.forget();
  }

  forget() {
    [this.id, this.version, this.folders, this.runs, this.settings] = ["", 0, [], [], []];
    this.asked = new Set();
    this.stamp = 0; // of the last change of any number
  }

  /** Asks for what changed; resolves to whether runs or curves did, as such. */
  async update(curves) {
    const asked = new URLSearchParams({ id: this.id, since: this.version });
    // What was not asked for last time is needed as a whole.
    for (const name of new Set(curves)) asked.append(this.asked.has(name) ? "curve" : "new", name);
    const answer = await fetch(`state?${asked}`);
    if (!answer.ok) throw new Error(await answer.text());
    const anew = this.take(await answer.json());
    this.asked = new Set(curves);
    return anew;
  }

  take(told) {
    let anew = told.id !== this.id;
    if (anew) this.forget();
    [this.id, this.version] = [told.id, told.version];
    for (const of of told.folders) {
      const folder = (this.folders[of.index] ??= { curves: new Map(), tables: [], findings: [], judged: 0, decisions: [] });
      if (of.structure) {
        // A curve stays where only its name is new; another run in the same folder has other groups.
        const same = JSON.stringify(folder.structure?.groups) === JSON.stringify(of.structure.groups);
        if (!same) [folder.curves, folder.tables] = [new Map(), []];
        folder.structure = of.structure;
        anew = true;
      }
      if (of.decisions) folder.decisions = of.decisions;
      if (of.findings) [folder.findings, folder.judged] = [of.findings, of.judged];
      for (const group of of.groups) {
        const table = Object.fromEntries(COLUMNS.map((name) => [name, unpacked(group.table[name])]));
        folder.tables[group.group] = { ...table, done: group.done };
      }
      for (const curve of of.curves) this.join(folder, curve);
      if (of.groups.length || of.curves.length) this.stamp++;
      Object.assign(folder, { name: of.name, path: of.path, state: of.state, sentence: of.sentence, done: of.done, left: of.left, ago: of.ago });
    }
    if (anew) this.lay();
    return anew;
  }

  join(folder, { group, name, stride, buckets, first, count, values }) {
    const key = `${group} ${name}`;
    const lanes = folder.structure.groups[group].runs.length;
    let curve = folder.curves.get(key);
    if (!curve || curve.buckets !== buckets) {
      curve = { stride, buckets, of: Array.from({ length: lanes }, () => new Float32Array(buckets).fill(NaN)) };
      folder.curves.set(key, curve);
    }
    const numbers = unpacked(values);
    for (let i = 0; i < lanes; i++) curve.of[i].set(numbers.subarray(i * count, (i + 1) * count), first);
    curve.means = null;
  }

  /** All runs and settings in a list, with a name and a method that tell folders apart. */
  lay() {
    [this.runs, this.settings] = [[], []];
    const many = this.folders.length > 1;
    this.folders.forEach((folder, f) => {
      const { settings, seeds, groups } = folder.structure;
      const own = settings.map((s, i) => ({
        ref: `s ${f} ${i}`, folder, label: s.label, env: s.env, swept: s.swept, claim: s.claim, claims: s.claims, runs: [],
        method: many ? `${folder.name}: ${s.method}` : s.method, name: many ? `${folder.name}: ${s.label}` : s.label,
      }));
      groups.forEach((group, g) => group.runs.forEach((run, lane) => {
        const setting = own[Math.floor(run / seeds.length)];
        const seed = seeds[run % seeds.length];
        const name = `${setting.name}, seed ${seed}`;
        const one = { ref: `r ${f} ${run}`, folder, setting, seed, name, group: g, lane, planned: group.planned };
        setting.runs.push(one);
        this.runs.push(one);
      }));
      this.settings.push(...own.filter((s) => s.runs.length));
    });
    this.refs = new Map([...this.runs, ...this.settings].map((one) => [one.ref, one]));
    this.stamp++;
  }

  /** A number of a run from the table; NaN before the first commit. */
  number(run, name) {
    const table = run.folder.tables[run.group];
    return table ? table[name][run.lane] : NaN;
  }

  /** Iterations so far of the run of a group that is furthest. */
  done(run) {
    return run.folder.tables[run.group]?.done ?? 0;
  }

  /** A run's curve; null if it has none. */
  ys(run, name) {
    return run.folder.curves.get(`${run.group} ${name}`)?.of[run.lane] ?? null;
  }

  /** Where the points of a run's curve are: the last step, or iteration, of each. */
  xs(run, name, across) {
    const curve = run.folder.curves.get(`${run.group} ${name}`);
    const key = `xs ${across}`;
    const done = this.done(run);
    if (curve[key]?.done !== done) {
      const { planned, batch, chunk } = run.folder.structure.groups[run.group];
      const unit = EVALUATED.includes(name) ? chunk : 1;
      const at = Float64Array.from({ length: curve.buckets }, (_, b) => {
        const iteration = Math.min((b + 1) * curve.stride * unit, planned, Math.max(done, b * curve.stride * unit + 1));
        return iteration * (across === "steps" ? batch : 1);
      });
      curve[key] = { done, at };
    }
    return curve[key].at;
  }

  /** The mean over the runs of a setting, where known. */
  mean(setting, name) {
    const first = setting.runs.find((run) => this.ys(run, name));
    if (!first) return null;
    const curve = first.folder.curves.get(`${first.group} ${name}`);
    const means = (curve.means ??= new Map());
    if (!means.has(setting.ref)) {
      const found = new Float32Array(curve.buckets).fill(NaN);
      const all = setting.runs.map((run) => this.ys(run, name)).filter((y) => y && y.length === found.length);
      for (let b = 0; b < found.length; b++) {
        let [sum, count] = [0, 0];
        for (const y of all) if (y[b] === y[b]) [sum, count] = [sum + y[b], count + 1];
        if (count) found[b] = sum / count;
      }
      means.set(setting.ref, found);
    }
    return { y: means.get(setting.ref), run: first };
  }

  /** The names of all curves, and of all swept settings, in their order. */
  get curves() {
    return [...new Set(this.folders.flatMap((f) => f.structure?.columns ?? []))];
  }
  swept(settings) {
    return [...new Set(settings.flatMap((s) => Object.keys(s.swept)))];
  }
  get envs() {
    return [...new Set(this.settings.map((s) => s.env))];
  }
}

/** The row of a run or of a setting, by the titles of the table's columns. */
function rowOf(model, one, lines) {
  if (lines === "runs") {
    const number = (name) => model.number(one, name);
    const broken = number("broken");
    return {
      run: one.setting.name, seed: one.seed, environment: one.setting.env, score: number("score"), "mean kl": number("kl"),
      "largest kl": number("largest"), claim: one.setting.claim ?? NaN, "beyond it": number("beyond"), iterations: number("iterations") || 0,
      broken: broken >= 0 ? broken : NaN,
    };
  }
  const all = (name) => one.runs.map((run) => model.number(run, name)).filter((x) => x === x);
  const mean = (xs) => (xs.length ? xs.reduce((a, b) => a + b, 0) / xs.length : NaN);
  const scores = all("score");
  return {
    setting: one.name, environment: one.env, seeds: one.runs.length, score: mean(scores),
    lowest: scores.length ? Math.min(...scores) : NaN, highest: scores.length ? Math.max(...scores) : NaN,
    "mean kl": mean(all("kl")), "largest kl": Math.max(...all("largest"), -Infinity) > -Infinity ? Math.max(...all("largest")) : NaN,
    claim: one.claim ?? NaN, "beyond it": mean(all("beyond")), iterations: Math.min(...one.runs.map((run) => model.number(run, "iterations") || 0)),
    broken: all("broken").filter((x) => x >= 0).length,
  };
}
