"use strict";
// Lines and points on a canvas. Many thin lines are drawn pixel by pixel, which is ten times as fast
// as the canvas's own strokes.

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
  if (size >= 1e9 || (size < 1e-4 && size > 0)) return x.toExponential(1).replace("e+", "e");
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
    const found = { x: [Infinity, -Infinity], y: [Infinity, -Infinity] };
    const take = (of, value, log) => {
      if (!Number.isFinite(value) || (log && value <= 0)) return;
      if (value < of[0]) of[0] = value;
      if (value > of[1]) of[1] = value;
    };
    for (const line of this.lines) {
      let any = false;
      for (let i = 0; i < line.y.length; i++) {
        const y = line.y[i];
        if (y !== y) continue;
        any = true;
        take(found.y, y, this.ylog);
        take(found.x, line.x[i], this.xlog);
      }
      line.any = any;
    }
    this.blank = !(found.y[0] <= found.y[1]);
    this.empty.textContent = this.blank ? this.why || "nothing is measured yet" : "";
    for (const mark of this.marks) for (const y of mark.y) take(found.y, y, this.ylog);
    if (this.blank) found.x = found.y = [1, 2];
    if (!this.dots && !this.xlog) found.x[0] = Math.min(found.x[0], 0);
    this.x = this.axis(found.x, this.xlog, this.dots ? 0.04 : 0);
    this.y = this.axis(found.y, this.ylog, 0.04);
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
    const most = Math.max(2, Math.floor(this.width / 110));
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

  /** One pixel wide lines into an image, each mixed with what is under it. */
  raster(g, lines) {
    const [w, h] = [this.back.width, this.back.height];
    const image = g.createImageData(w, h);
    const data = image.data;
    const edge = { left: ROOM.left * this.ratio, right: w - ROOM.right * this.ratio, low: (this.height - ROOM.bottom) * this.ratio };
    for (const line of lines) {
      const colour = rgb(line.colour);
      const alpha = line.alpha ?? 0.6;
      let [a, b] = [NaN, NaN];
      for (let i = 0; i < line.y.length; i++) {
        const value = line.y[i];
        if (value !== value || (this.ylog && value <= 0)) continue;
        const [x, y] = [this.px(line.x[i]) * this.ratio, this.py(value) * this.ratio];
        if (a === a) segment(data, w, edge, a, b, x, y, colour, alpha);
        [a, b] = [x, y];
      }
    }
    g.putImageData(image, 0, 0);
  }
}

const known = new Map();

/** "#rrggbb" as three numbers. */
function rgb(colour) {
  if (!known.has(colour)) known.set(colour, [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16)));
  return known.get(colour);
}

function segment(data, w, edge, x0, y0, x1, y1, [red, green, blue], alpha) {
  const steps = Math.min(4096, Math.max(1, Math.ceil(Math.max(Math.abs(x1 - x0), Math.abs(y1 - y0)))));
  const [dx, dy] = [(x1 - x0) / steps, (y1 - y0) / steps];
  for (let s = 0; s < steps; s++) {
    const [x, y] = [(x0 + s * dx) | 0, (y0 + s * dy) | 0];
    if (x < edge.left || x >= edge.right || y < 0 || y > edge.low) continue;
    const at = 4 * (y * w + x);
    const under = data[at + 3] / 255;
    const all = alpha + under * (1 - alpha);
    const mix = alpha / all;
    data[at] += (red - data[at]) * mix;
    data[at + 1] += (green - data[at + 1]) * mix;
    data[at + 2] += (blue - data[at + 2]) * mix;
    data[at + 3] = 255 * all;
  }
}
