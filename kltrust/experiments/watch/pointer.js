"use strict";
// What is in front of a chart: the line at the pointer or the keys, and those that are kept.

Object.assign(Chart.prototype, {
  /** The lines that the pointer can be at. */
  aims() {
    return this.lines.filter((line) => line.aim && line.any);
  },

  /** The index of a line's known point that is nearest to x, in pixels; -1 if it has none. */
  index(line, at) {
    let [best, found] = [Infinity, -1];
    for (let i = 0; i < line.y.length; i++) {
      if (line.y[i] !== line.y[i]) continue;
      const gap = Math.abs(this.px(line.x[i]) - at);
      if (gap < best) [best, found] = [gap, i];
    }
    return found;
  },

  point(event) {
    const box = this.plot.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let [best, found] = [this.dots ? 25 : 60, null];
    for (const line of this.aims()) {
      const i = this.index(line, x);
      if (i < 0) continue;
      const gap = Math.hypot(this.py(line.y[i]) - y, this.dots ? this.px(line.x[i]) - x : 0);
      if (gap < best) [best, found] = [gap, { line, i }];
    }
    this.move(found);
  },

  leave() {
    this.move(null);
  },

  /** Arrow keys: left and right along a line, up and down from line to line; Enter keeps it. */
  key(event) {
    const aims = this.aims();
    if (!aims.length || !["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Enter", "Escape"].includes(event.key)) return;
    event.preventDefault();
    if (event.key === "Escape") return this.move(null);
    if (!this.at || !aims.includes(this.at.line)) {
      const line = aims[0];
      return this.move({ line, i: this.last(line) });
    }
    let { line, i } = this.at;
    if (event.key === "Enter") return this.keep(line.ref);
    const along = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (along && !this.dots) {
      let next = i + along;
      while (next >= 0 && next < line.y.length && line.y[next] !== line.y[next]) next += along;
      if (next >= 0 && next < line.y.length) i = next;
    } else {
      const step = along || { ArrowUp: 1, ArrowDown: -1 }[event.key];
      const where = this.px(line.x[i]);
      const of = (l) => (along ? l.x[0] : l.y[this.index(l, where)]);
      const order = [...aims].sort((a, b) => of(a) - of(b));
      line = order[Math.min(order.length - 1, Math.max(0, order.indexOf(line) + step))];
      i = this.index(line, where);
    }
    this.move({ line, i }, true);
  },

  last(line) {
    let i = line.y.length - 1;
    while (i > 0 && line.y[i] !== line.y[i]) i--;
    return i;
  },

  move(at, aloud = false) {
    if (at?.line === this.at?.line && at?.i === this.at?.i) return;
    const other = at?.line.ref !== this.at?.line.ref;
    this.at = at;
    if (other) this.pick(at ? at.line.ref : null);
    else this.over();
    if (at && aloud) this.say(this.words().join(", "));
  },

  words() {
    const { line, i } = this.at;
    const x = this.names ? this.names[line.x[i]] : shortly(line.x[i]);
    return [line.name, `${this.ytitle} ${shortly(line.y[i])}`, `${this.xtitle} ${x}`];
  },

  /** Draws what is in front: `kept` and `active` are refs, set by the page. */
  over() {
    if (!this.width) return;
    const g = this.front.getContext("2d");
    g.setTransform(1, 0, 0, 1, 0, 0);
    g.clearRect(0, 0, this.front.width, this.front.height);
    g.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    const wanted = this.lines.filter((l) => l.aim && l.any && (l.ref === this.active || this.kept?.has(l.ref)));
    for (const line of wanted) {
      const front = line.ref === this.active;
      if (this.dots) {
        this.dot(g, { ...line, colour: this.colours.ground, alpha: 1 }, front ? 8 : 6);
        this.dot(g, { ...line, alpha: 1 }, front ? 6 : 5);
        continue;
      }
      this.stroke(g, line.x, line.y, this.colours.ground, front ? 6 : 5, 0.9);
      this.stroke(g, line.x, line.y, line.colour, front ? 3 : 2.4, 1);
    }
    const at = this.at && this.at.line.any ? this.at : null;
    this.tip.hidden = !at;
    if (!at) return;
    const [x, y] = [this.px(at.line.x[at.i]), this.py(at.line.y[at.i])];
    g.fillStyle = at.line.colour;
    g.beginPath();
    g.arc(x, y, 4.5, 0, 7);
    g.fill();
    this.tip.replaceChildren(...this.words().flatMap((word, i) => (i ? [document.createElement("br"), word] : [word])));
    const [w, h] = [this.tip.offsetWidth, this.tip.offsetHeight];
    this.tip.style.left = `${Math.max(0, Math.min(this.width - w, x > this.width / 2 ? x - w - 12 : x + 12))}px`;
    this.tip.style.top = `${Math.max(0, Math.min(this.height - h, y - h - 10 < 0 ? y + 12 : y - h - 10))}px`;
  },
});
