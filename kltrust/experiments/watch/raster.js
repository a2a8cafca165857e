"use strict";
// Many thin lines, drawn pixel by pixel: ten times as fast as the strokes of a canvas.

const MANY = 600; // from here on lines hide each other, in place of being mixed

Object.assign(Chart.prototype, {
  /** One pixel wide lines into an image, each mixed with what is under it, or many in its place. */
  raster(g, lines) {
    const { ratio, ylog } = this;
    const [w, h] = [this.back.width, this.back.height];
    const image = g.createImageData(w, h);
    const { a, b, f } = this.y;
    const low = (this.height - ROOM.bottom) * ratio;
    const scale = (low - ROOM.top * ratio) / (b - a);
    const edge = { left: ROOM.left * ratio, right: w - ROOM.right * ratio, low };
    const places = new Map(); // lines of a group share their x
    const plain = lines.length > MANY ? new Uint32Array(image.data.buffer) : null;
    for (const { x, y, colour, alpha = 0.6 } of plain ? mixed(lines) : lines) {
      if (!places.has(x)) places.set(x, Float32Array.from(x, (v) => this.px(v) * ratio));
      const at = places.get(x);
      const paint = rgb(colour);
      const pixel = ((Math.round(255 * alpha) << 24) | (paint[2] << 16) | (paint[1] << 8) | paint[0]) >>> 0;
      let before = NaN;
      let from = 0;
      for (let i = 0; i < y.length; i++) {
        const value = y[i];
        if (value !== value || (ylog && value <= 0)) continue;
        const place = low - ((ylog ? f(value) : value) - a) * scale;
        if (before === before && plain) over(plain, w, edge, at[from], before, at[i], place, pixel);
        else if (before === before) segment(image.data, w, edge, at[from], before, at[i], place, paint, alpha);
        before = place;
        from = i;
      }
    }
    g.putImageData(image, 0, 0);
  },
});

/** The lines in another order, so that no method as a whole lies on top of the others. */
function mixed(lines) {
  const step = 389; // a prime: every line comes once, unless their number is a multiple of it
  if (lines.length % step === 0) return lines;
  return lines.map((_, i) => lines[(i * step) % lines.length]);
}

const known = new Map();

/** "#rrggbb" as three numbers. */
function rgb(colour) {
  if (!known.has(colour)) known.set(colour, [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16)));
  return known.get(colour);
}

function segment(data, w, edge, x0, y0, x1, y1, paint, alpha) {
  const steps = Math.min(4096, Math.max(1, Math.ceil(Math.max(Math.abs(x1 - x0), Math.abs(y1 - y0)))));
  const dx = (x1 - x0) / steps;
  const dy = (y1 - y0) / steps;
  const { left, right, low } = edge;
  for (let s = 0; s < steps; s++) {
    const x = (x0 + s * dx) | 0;
    const y = (y0 + s * dy) | 0;
    if (x < left || x >= right || y < 0 || y > low) continue;
    const at = 4 * (y * w + x);
    const under = data[at + 3] / 255;
    const all = alpha + under * (1 - alpha);
    const mix = alpha / all;
    data[at] += (paint[0] - data[at]) * mix;
    data[at + 1] += (paint[1] - data[at + 1]) * mix;
    data[at + 2] += (paint[2] - data[at + 2]) * mix;
    data[at + 3] = 255 * all;
  }
}

/** A segment whose pixels replace what is under them. */
function over(pixels, w, edge, x0, y0, x1, y1, pixel) {
  const steps = Math.min(4096, Math.max(1, Math.ceil(Math.max(Math.abs(x1 - x0), Math.abs(y1 - y0)))));
  const dx = (x1 - x0) / steps;
  const dy = (y1 - y0) / steps;
  const { right, low } = edge;
  for (let s = 0; s < steps; s++) {
    const x = (x0 + s * dx) | 0;
    const y = (y0 + s * dy) | 0;
    if (x < right && y >= 0 && y <= low) pixels[y * w + x] = pixel;
  }
}
