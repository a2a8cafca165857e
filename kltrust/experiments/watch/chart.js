"use strict";
// Lines and points on a canvas, with axes.

const FEW = 150; // so many lines are stroked; more are drawn thin
const ROOM = { left: 58, right: 14, top: 8, bottom: 34 };

/** A few round numbers that divide a range: of a logarithmic one, its decades. */
function ticksOf(low, high, log, most) {
  if (log) {
    const first = Math.ceil(Math.log10(low) - 1e-9);
    const last = Math.floor(Math.log10(high) + 1e-9);
    if (last - first >= 1) {
      const every = Math.ceil((last - first + 1) / most);
      const found = [];
      for (let i = first; i <= last; i += every) found.push(10 ** i);
      return found;
    }
    const parts = [1, 2, 3, 5, 7].flatMap((m) => [first - 1, first, last].map((e) => m * 10 ** e));
    const inside = [...new Set(parts)].filter((t) => t >= low && t <= high).sort((a, b) => a - b);
    if (inside.length > 1) return inside;
  }
  const rough = (high - low) / most || 1;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((m) => m * unit >= rough) * unit;
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
  return found;
}

/** A number to three or four digits. */
function shortly(x) {
  if (x === undefined || Number.isNaN(x)) return "–";
  if (!Number.isFinite(x)) return x > 0 ? "inf" : "-inf";
  const size = Math.abs(x);
  if (size >= 1e9 || (size < 1e-4 && size > 0)) return x.toExponential(1).replace("e+", "e").replace(".0", "");
  if (size >= 1e6) return `${Number((x / 1e6).toPrecision(3))}M`;
  if (size >= 1e4) return `${Number((x / 1e3).toPrecision(3))}k`;
  return String(Number(x.toPrecision(size >= 1000 ? 4 : 3)));
}

class Chart {
  /** Draws into `place`; tells `pick(ref)` which line the pointer or the keys are at. */
  constructor(place, { pick, keep, say }) {
    this.pick = pick;
    this.keep = keep;
    this.say = say;
    this.plot = document.createElement("div");
    this.plot.className = "plot";
    this.plot.tabIndex = 0;
    this.plot.setAttribute("role", "img");
    [this.back, this.front] = [0, 1].map(() => document.createElement("canvas"));
    this.tip = document.createElement("div");
    this.tip.className = "tip";
    this.tip.hidden = true;
    this.empty = document.createElement("div");
    this.empty.className = "empty";
    this.plot.append(this.back, this.front, this.empty, this.tip);
    place.append(this.plot);
    this.lines = [];
    this.at = null;
    this.plot.onpointermove = (event) => this.point(event);
    this.plot.onpointerleave = () => this.leave();
    this.plot.onblur = () => this.leave();
    this.plot.onclick = () => this.at && this.keep(this.at.line.ref);
    this.plot.onkeydown = (event) => this.key(event);
  }

  /**
   * Shows lines: each has x, y (typed arrays), colour, alpha, width, ref, name, and `aim` if the
   * pointer can be at it. `dots` draws points in place of lines, `marks` are dashed lines.
   */
  show(data) {
    Object.assign(this, { marks: [], dots: false, xlog: false, ylog: false, names: null }, data);
    this.plot.setAttribute("aria-label", this.title);
    this.range();
    this.draw();
  }

  range() {
    let [left, right, low, high] = [Infinity, -Infinity, Infinity, -Infinity];
    for (const line of this.lines) {
      const { x, y } = line;
      let [first, last] = [-1, -1];
      for (let i = 0; i < y.length; i++) {
        const value = y[i];
        if (!(Math.abs(value) < Infinity) || (this.ylog && value <= 0)) continue;
        if (first < 0) first = i;
        last = i;
        if (value < low) low = value;
        if (value > high) high = value;
      }
      line.any = first >= 0;
      // Along a line x rises.
      if (line.any && x[first] < left) left = x[first];
      if (line.any && x[last] > right) right = x[last];
    }
    this.blank = !(low <= high);
    this.empty.textContent = this.blank ? this.why || "nothing is measured yet" : "";
    for (const y of this.marks.flatMap((mark) => mark.y)) {
      if (!Number.isFinite(y) || (this.ylog && y <= 0)) continue;
      [low, high] = [Math.min(low, y), Math.max(high, y)];
    }
    if (this.blank) [left, right, low, high] = [1, 2, 1, 2];
    if (!this.dots && !this.xlog) left = Math.min(left, 0);
    this.x = this.axis([left, right], this.xlog, this.dots ? 0.04 : 0);
    this.y = this.axis([low, high], this.ylog, 0.04);
  }

  axis([low, high], log, margin) {
    const f = log ? Math.log10 : (v) => v;
    let [a, b] = [f(low), f(high)];
    if (!(b > a)) [a, b] = log ? [a - 0.3, b + 0.3] : [a - (Math.abs(a) || 1) * 0.1, b + (Math.abs(b) || 1) * 0.1];
    const more = (b - a) * margin;
    [a, b] = [a - more, b + more];
    return { f, a, b, log, low: log ? 10 ** a : a, high: log ? 10 ** b : b };
  }

  /** Where a value is, in pixels of the page. */
  px(x) {
    return ROOM.left + ((this.x.f(x) - this.x.a) / (this.x.b - this.x.a)) * (this.width - ROOM.left - ROOM.right);
  }
  py(y) {
    return this.height - ROOM.bottom - ((this.y.f(y) - this.y.a) / (this.y.b - this.y.a)) * (this.height - ROOM.top - ROOM.bottom);
  }

  draw() {
    const box = this.plot.getBoundingClientRect();
    if (!box.width || !box.height) return;
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    [this.width, this.height, this.ratio] = [box.width, box.height, ratio];
    for (const canvas of [this.back, this.front]) {
      const [w, h] = [Math.round(box.width * ratio), Math.round(box.height * ratio)];
      if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
    }
    const style = getComputedStyle(document.documentElement);
    this.colours = Object.fromEntries(["ink", "soft", "line", "ground"].map((n) => [n, style.getPropertyValue(`--${n}`).trim()]));
    const g = this.back.getContext("2d");
    g.setTransform(1, 0, 0, 1, 0, 0);
    g.clearRect(0, 0, this.back.width, this.back.height);
    const thin = this.lines.filter((line) => line.any && (line.thin || this.lines.length > FEW));
    if (thin.length && !this.dots) this.raster(g, thin);
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.axes(g);
    g.save();
    g.beginPath();
    g.rect(ROOM.left, 0, this.width - ROOM.left - ROOM.right, this.height - ROOM.bottom + 1);
    g.clip();
    for (const line of this.lines) {
      if (!line.any) continue;
      if (this.dots) this.dot(g, line, 3.2);
      else if (!thin.includes(line)) this.stroke(g, line.x, line.y, line.colour, line.width || 1.6, line.alpha ?? 1);
    }
    g.setLineDash([5, 4]);
    for (const mark of this.blank ? [] : this.marks) this.stroke(g, mark.x, mark.y, mark.colour, 1.4, 0.9);
    g.restore();
    this.over();
  }

  axes(g) {
    g.font = "12px system-ui, sans-serif";
    g.strokeStyle = this.colours.line;
    g.fillStyle = this.colours.soft;
    g.lineWidth = 1;
    if (this.blank) return;
    g.textAlign = "right";
    g.textBaseline = "middle";
    for (const t of ticksOf(this.y.low, this.y.high, this.y.log, 5)) {
      const y = Math.round(this.py(t)) + 0.5;
      g.beginPath();
      g.moveTo(ROOM.left, y);
      g.lineTo(this.width - ROOM.right, y);
      g.stroke();
      g.fillText(shortly(t), ROOM.left - 6, y);
    }
    g.textAlign = "center";
    g.textBaseline = "top";
    const bottom = this.height - ROOM.bottom;
    const most = Math.max(2, Math.floor(this.width / 90));
    const ticks = this.names ? this.names.map((_, i) => i) : ticksOf(this.x.low, this.x.high, this.x.log, most);
    for (const t of ticks) g.fillText(this.names ? this.names[t].slice(0, 14) : shortly(t), this.px(t), bottom + 5);
    g.fillText(this.xtitle || "", (ROOM.left + this.width - ROOM.right) / 2, bottom + 19);
    g.beginPath();
    g.moveTo(ROOM.left, bottom + 0.5);
    g.lineTo(this.width - ROOM.right, bottom + 0.5);
    g.stroke();
  }

  stroke(g, xs, ys, colour, width, alpha) {
    g.globalAlpha = alpha;
    g.strokeStyle = colour;
    g.lineWidth = width;
    g.lineJoin = "round";
    g.beginPath();
    let on = false;
    for (let i = 0; i < ys.length; i++) {
      const y = ys[i];
      if (y !== y || (this.ylog && y <= 0)) continue;
      const [a, b] = [this.px(xs[i]), this.py(y)];
      if (on) g.lineTo(a, b);
      else g.moveTo(a, b);
      on = true;
    }
    g.stroke();
    g.globalAlpha = 1;
  }

  dot(g, line, size) {
    g.globalAlpha = line.alpha ?? 0.75;
    g.fillStyle = line.colour;
    for (let i = 0; i < line.y.length; i++) {
      if (line.y[i] !== line.y[i]) continue;
      g.beginPath();
      g.arc(this.px(line.x[i]), this.py(line.y[i]), size, 0, 7);
      g.fill();
    }
    g.globalAlpha = 1;
  }
}
