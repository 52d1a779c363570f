// Figures that can be looked into: hover and arrows read values, a drag or the wheel zooms, the legend hides arms.

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 260, LEFT = 52, RIGHT = 14, TOP = 12, BOTTOM = 40;

/** An SVG element with attributes. */
function drawn(tag, attributes, parent) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  parent?.append(element);
  return element;
}

/** About `count` round numbers between two values. */
function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(Number((i * step).toPrecision(12)));
  return found;
}

/** A number with about as many digits as tell it from its neighbors in a range. */
function told(value, range) {
  if (!Number.isFinite(value)) return "–";
  const digits = Math.max(0, Math.min(6, 2 - Math.floor(Math.log10(range || Math.abs(value) || 1))));
  return value.toFixed(digits).replace(/^-0(\.0*)?$/, "0$1");
}

/** The index of the point of a curve that lies nearest to x. */
function nearest(xs, x) {
  let best = 0;
  xs.forEach((value, index) => { if (Math.abs(value - x) < Math.abs(xs[best] - x)) best = index; });
  return best;
}

/** One figure in `place`: its panels share the arms that are hidden, the range of x, and the crosshair. */
class Figure {
  constructor(place, data, style) {
    this.place = place;
    this.data = data;
    this.style = style;
    this.hidden = new Set();
    this.at = null;
    const xs = data.panels.flatMap((panel) => panel.curves.flatMap((curve) => curve.x));
    this.points = [...new Set(xs)].sort((one, other) => one - other);
    this.whole = [this.points[0], this.points[this.points.length - 1]];
    if (this.whole[0] === this.whole[1]) this.whole = [this.whole[0] - 0.5, this.whole[1] + 0.5];
    this.range = [...this.whole];
    this.panels = data.panels.map((panel, index) => new Panel(this, panel, index));
    const bar = made("div", { class: "tools" });
    for (const [name, act] of [["zoom in", () => this.zoom(0.6)], ["zoom out", () => this.zoom(1 / 0.6)], ["reset", () => this.reset()]]) {
      const button = made("button", { type: "button" }, name);
      button.addEventListener("click", act);
      bar.append(button);
    }
    bar.append(made("span", { class: "hint" }, "Drag to zoom. Click, then wheel, arrows, + and − work; 0 or Esc resets."));
    place.replaceChildren(...this.panels.map((panel) => panel.element), bar);
    new ResizeObserver(() => this.draw()).observe(place);
    this.draw();
  }

  draw() { for (const panel of this.panels) panel.draw(); }

  point(x) {
    this.at = x;
    for (const panel of this.panels) panel.cross();
  }

  toggle(arm) {
    if (!this.hidden.delete(arm)) this.hidden.add(arm);
    this.draw();
  }

  /** Makes the range of x `factor` times as wide around `center`, within the whole. */
  zoom(factor, center = this.at ?? (this.range[0] + this.range[1]) / 2) {
    const [low, high] = this.range.map((end) => center + (end - center) * factor);
    this.show(low, high);
  }

  show(low, high, heights = null) {
    const least = (this.whole[1] - this.whole[0]) / 200;
    low = Math.max(this.whole[0], low);
    high = Math.min(this.whole[1], high);
    if (high - low < least) return;
    this.range = [low, high];
    for (const panel of this.panels) panel.heights = heights?.panel === panel ? heights.range : null;
    this.draw();
  }

  reset() {
    this.at = null;
    this.show(...this.whole);
  }

  /** Moves the crosshair by points. */
  step(count) {
    const visible = this.points.filter((x) => x >= this.range[0] && x <= this.range[1]);
    if (!visible.length) return;
    const here = this.at === null ? (count > 0 ? -1 : visible.length) : nearest(visible, this.at);
    this.point(visible[Math.max(0, Math.min(visible.length - 1, here + count))]);
  }
}

/** One panel: a drawing, and a legend that shows values and hides arms. */
class Panel {
  constructor(figure, data, index) {
    this.figure = figure;
    this.data = data;
    this.heights = null;
    this.id = `${figure.data.artefact}-${index}`;
    const label = `${data.label} against ${figure.data.x.label}; ${data.curves.map((curve) => curve.label).join(", ")}`;
    this.svg = drawn("svg", { tabindex: 0, role: "application", "aria-roledescription": "chart", "aria-label": label, class: "chart" });
    this.legend = made("ul", { class: "legend" });
    this.readout = made("p", { class: "readout", "aria-live": "polite" });
    this.element = made("div", { class: "panel" }, this.svg, this.readout, this.legend);
    this.values = new Map();
    for (const curve of data.curves) {
      const value = made("span", { class: "value" });
      const key = made("span", { class: "key", style: `--arm:${figure.style(curve.arm).color}`, "aria-hidden": "true" });
      const button = made("button", { type: "button", "aria-pressed": "true", "data-arm": curve.arm }, key, curve.label, value);
      button.addEventListener("click", () => figure.toggle(curve.arm));
      this.legend.append(made("li", {}, button));
      this.values.set(curve.arm, { button, value });
    }
    this.listen();
  }

  get shown() { return this.data.curves.filter((curve) => !this.figure.hidden.has(curve.arm)); }

  /** The range of y that the shown curves fill within the range of x, with some room. */
  get scale() {
    if (this.heights) return this.heights;
    const [from, to] = this.figure.range;
    let low = Infinity, high = -Infinity;
    for (const curve of this.shown) curve.x.forEach((x, i) => {
      if (x < from || x > to) return;
      low = Math.min(low, curve.low[i]);
      high = Math.max(high, curve.high[i]);
    });
    if (low > high) return [0, 1];
    const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 0.5;
    return [low - room, high + room];
  }

  draw() {
    const { figure, svg } = this;
    const width = Math.max(260, this.element.clientWidth || 600);
    const [x0, x1] = figure.range, [y0, y1] = this.scale;
    this.width = width;
    this.toX = (x) => LEFT + ((x - x0) / (x1 - x0)) * (width - LEFT - RIGHT);
    this.toY = (y) => HEIGHT - BOTTOM - ((y - y0) / (y1 - y0)) * (HEIGHT - TOP - BOTTOM);
    svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    svg.replaceChildren();
    const factor = this.data.share_of_one ? 100 : 1;
    const clip = drawn("clipPath", { id: `${this.id}-clip` }, svg);
    drawn("rect", { x: LEFT, y: TOP, width: width - LEFT - RIGHT, height: HEIGHT - TOP - BOTTOM }, clip);
    const grid = drawn("g", { class: "grid" }, svg);
    for (const y of ticks(y0 * factor, y1 * factor, 5)) {
      drawn("line", { x1: LEFT, x2: width - RIGHT, y1: this.toY(y / factor), y2: this.toY(y / factor) }, grid);
      drawn("text", { x: LEFT - 8, y: this.toY(y / factor) + 4, "text-anchor": "end" }, grid).textContent = y;
    }
    for (const x of ticks(x0, x1, Math.max(3, Math.round(width / 110)))) {
      drawn("text", { x: this.toX(x), y: HEIGHT - BOTTOM + 18, "text-anchor": "middle" }, grid).textContent = x;
      drawn("line", { x1: this.toX(x), x2: this.toX(x), y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM + 4, class: "tick" }, grid);
    }
    drawn("line", { x1: LEFT, x2: width - RIGHT, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM, class: "axis" }, grid);
    drawn("text", { x: (LEFT + width - RIGHT) / 2, y: HEIGHT - 4, "text-anchor": "middle", class: "name" }, grid).textContent = figure.data.x.label;
    const lines = drawn("g", { "clip-path": `url(#${this.id}-clip)` }, svg);
    for (const curve of this.shown) this.line(curve, lines);
    this.over = drawn("g", { class: "over" }, svg);
    this.cross();
  }

  line(curve, parent) {
    const { color, dash } = this.figure.style(curve.arm);
    const path = (ys) => ys.map((y, i) => `${this.toX(curve.x[i]).toFixed(1)},${this.toY(y).toFixed(1)}`);
    if (curve.low.some((low, i) => low !== curve.high[i])) {
      const band = [...path(curve.high), ...path(curve.low).reverse()].join(" ");
      drawn("polygon", { points: band, class: "band", style: `fill:${color}` }, parent);
    }
    drawn("polyline", { points: path(curve.mean).join(" "), class: "curve", style: `stroke:${color}`, "stroke-dasharray": dash, "data-arm": curve.arm }, parent);
  }

  /** The crosshair and the values at it; without one, the values at the end of each curve. */
  cross() {
    const { at } = this.figure, [y0, y1] = this.scale, factor = this.data.share_of_one ? 100 : 1;
    this.over.replaceChildren();
    const inside = at !== null && at >= this.figure.range[0] && at <= this.figure.range[1];
    if (inside) drawn("line", { x1: this.toX(at), x2: this.toX(at), y1: TOP, y2: HEIGHT - BOTTOM, class: "cross" }, this.over);
    this.readout.textContent = `${this.data.label}${this.data.share_of_one ? ", %" : ""}` + (inside ? ` at ${this.figure.data.x.label} ${Number(at.toFixed(3))}` : "; beside each name: the value at the end");
    for (const curve of this.data.curves) {
      const { button, value } = this.values.get(curve.arm), hidden = this.figure.hidden.has(curve.arm);
      const i = inside ? nearest(curve.x, at) : curve.x.length - 1;
      const error = (curve.high[i] - curve.low[i]) / 2, show = (number) => told(number * factor, (y1 - y0) * factor);
      button.setAttribute("aria-pressed", String(!hidden));
      value.textContent = show(curve.mean[i]) + (error ? ` ± ${show(error)}` : "");
      button.title = Object.entries(curve.by_seed ?? {}).map(([seed, values]) => `seed ${seed}: ${show(values[i])}`).join("\n");
      if (!hidden && inside) drawn("circle", { cx: this.toX(curve.x[i]), cy: this.toY(curve.mean[i]), r: 3.5, style: `fill:${this.figure.style(curve.arm).color}` }, this.over);
    }
  }

  /** Where on the scales a pointer is. */
  under(event) {
    const box = this.svg.getBoundingClientRect(), [x0, x1] = this.figure.range, [y0, y1] = this.scale;
    const left = ((event.clientX - box.left) / box.width) * this.width, top = ((event.clientY - box.top) / box.height) * HEIGHT;
    const x = x0 + ((left - LEFT) / (this.width - LEFT - RIGHT)) * (x1 - x0);
    const y = y0 + ((HEIGHT - BOTTOM - top) / (HEIGHT - TOP - BOTTOM)) * (y1 - y0);
    return { x: Math.min(x1, Math.max(x0, x)), y, left, top };
  }

  listen() {
    const { svg, figure } = this;
    let from = null;
    svg.addEventListener("pointerdown", (event) => {
      if (event.pointerType === "touch" || event.button) return;
      from = this.under(event);
      svg.setPointerCapture(event.pointerId);
    });
    svg.addEventListener("pointermove", (event) => {
      const here = this.under(event);
      figure.point(figure.points[nearest(figure.points, here.x)]);
      if (from && Math.abs(here.left - from.left) > 4) this.frame(from, here);
    });
    svg.addEventListener("pointerup", (event) => {
      const start = from, end = this.under(event);
      from = null;
      if (!start || Math.abs(end.left - start.left) < 8) return this.cross();
      const [low, high] = [Math.min(start.x, end.x), Math.max(start.x, end.x)];
      const tall = Math.abs(end.top - start.top) > 30;
      figure.show(low, high, tall ? { panel: this, range: [Math.min(start.y, end.y), Math.max(start.y, end.y)] } : null);
    });
    svg.addEventListener("pointercancel", () => { from = null; });
    svg.addEventListener("pointerleave", () => { if (!from) figure.point(null); });
    svg.addEventListener("dblclick", () => figure.reset());
    svg.addEventListener("wheel", (event) => {
      if (document.activeElement !== svg && !event.ctrlKey) return;
      event.preventDefault();
      figure.zoom(event.deltaY < 0 ? 0.8 : 1.25, this.under(event).x);
    }, { passive: false });
    const keys = {
      ArrowLeft: () => figure.step(-1), ArrowRight: () => figure.step(1), "+": () => figure.zoom(0.6), "=": () => figure.zoom(0.6),
      "-": () => figure.zoom(1 / 0.6), 0: () => figure.reset(), Escape: () => figure.reset(), Home: () => figure.point(figure.range[0]), End: () => figure.point(figure.range[1]),
    };
    svg.addEventListener("keydown", (event) => {
      if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      keys[event.key]();
    });
  }

  frame(from, here) {
    const tall = Math.abs(here.top - from.top) > 30;
    const top = tall ? Math.min(from.top, here.top) : TOP, bottom = tall ? Math.max(from.top, here.top) : HEIGHT - BOTTOM;
    drawn("rect", { x: Math.min(from.left, here.left), width: Math.abs(here.left - from.left), y: top, height: bottom - top, class: "frame" }, this.over);
  }
}
