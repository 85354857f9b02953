// The look and the behaviour of report.html. The script draws SVG from the JSON in <script id="data"> (made by
// report.cpp):
//   axes    [{key, label}]                                   what can be on the x axis
//   axis    key of the axis shown first
//   runs    [{name, stages: [{name, <axis key>: start}]}]
//   tables  [{run, name, dots, columns: {key: [numbers]}}]    "train" and one for each evaluated split
//   charts  [{key, title, unit, wide, noisy}]                shows the column `key` of every table that has it;
//                                                           noisy ones can be smoothed
#include "training/report.h"

namespace accrete {

const char* const kReportStyle = R"css(
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(126px, 1fr)); gap: 12px; margin: 20px 0 4px; }
.cards .label { color: var(--soft); font-size: 13px; }
.cards .card { padding: 11px 12px; }
.cards .value { font-size: 20px; white-space: nowrap; font-weight: 600; letter-spacing: -0.02em; font-variant-numeric: tabular-nums; line-height: 1.3; }
.cards small { font-size: 14px; font-weight: 500; letter-spacing: 0; }
.cards .note { color: var(--soft); font-size: 12.5px; }
#controls { display: flex; flex-wrap: wrap; gap: 8px 18px; align-items: center; margin: 26px 0 12px; font-size: 13.5px; }
.choice { display: inline-flex; background: var(--line); border-radius: 8px; padding: 2px; }
.choice button { border: 0; background: none; color: var(--soft); font: inherit; padding: 3px 11px; border-radius: 6px; cursor: pointer; }
.choice button[aria-pressed=true] { background: var(--card); color: var(--ink); box-shadow: 0 1px 2px #0002; }
#controls label { display: inline-flex; gap: 6px; align-items: center; color: var(--soft); cursor: pointer; }
#controls input[type=range] { width: 90px; accent-color: var(--accent); }
#controls input[type=checkbox] { accent-color: var(--accent); margin: 0; }
#legend { display: flex; flex-wrap: wrap; gap: 6px; margin-left: auto; }
#legend button { display: inline-flex; align-items: center; gap: 7px; border: 1px solid var(--line); background: var(--card); color: var(--ink);
  font: inherit; border-radius: 99px; padding: 2px 11px 2px 9px; cursor: pointer; }
#legend button[aria-pressed=false] { opacity: 0.4; }
.swatch { display: inline-block; width: 10px; height: 10px; border-radius: 3px; flex: none; }
#charts { display: grid; grid-template-columns: repeat(6, 1fr); gap: 14px; }
.chart { grid-column: span 2; position: relative; padding: 12px 14px 6px; min-width: 0; }
.chart.wide { grid-column: 1 / -1; }
@media (max-width: 900px) { .chart { grid-column: span 3; } }
@media (max-width: 600px) { .chart { grid-column: 1 / -1; } }
.chart header { display: flex; justify-content: space-between; gap: 10px; font-size: 13.5px; font-weight: 600; }
.chart header span { color: var(--soft); font-weight: 400; font-variant-numeric: tabular-nums; }
.chart svg { display: block; width: 100%; touch-action: pan-y; cursor: crosshair; user-select: none; }
.chart text { fill: var(--soft); font-size: 11.5px; font-variant-numeric: tabular-nums; }
.tip { position: absolute; pointer-events: none; z-index: 2; background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  box-shadow: 0 4px 16px #0003; padding: 7px 10px; font-size: 12.5px; font-variant-numeric: tabular-nums; white-space: nowrap; }
.tip div { display: flex; gap: 7px; align-items: center; }
.tip b { margin-left: auto; padding-left: 14px; font-weight: 600; }
.bar { height: 6px; border-radius: 3px; background: var(--line); min-width: 80px; margin-top: 8px; }
.bar i { display: block; height: 100%; border-radius: 3px; background: var(--accent); }
.sample { margin-bottom: 10px; }
.sample pre { font-size: 13.5px; }
.sample .prompt { color: var(--soft); }
details > summary { font-size: 17px; font-weight: 600; margin: 34px 0 10px; }
.notice { border-left: 4px solid var(--bad); margin-top: 14px; }
)css";

const char* const kReportScript = R"js(
(() => {
'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const single = data.runs.length === 1;
const state = {axis: data.axis, logX: false, logY: false, outliers: false, smooth: 0.6, hidden: new Set(), range: null, hover: null};
const svgNS = 'http://www.w3.org/2000/svg';

// ---- small helpers ----
const make = (tag, attributes = {}, parent = null, text = null) => {
  const node = document.createElement(tag);
  for (const [k, v] of Object.entries(attributes)) node.setAttribute(k, v);
  if (text !== null) node.textContent = text;
  if (parent) parent.append(node);
  return node;
};
const draw = (tag, attributes, parent, text = null) => {
  const node = document.createElementNS(svgNS, tag);
  for (const [k, v] of Object.entries(attributes)) node.setAttribute(k, v);
  if (text !== null) node.textContent = text;
  parent.append(node);
  return node;
};
const trim = (text) => text.includes('.') ? text.replace(/\.?0+$/, '') : text;
const digits = (v, n) => trim(v.toPrecision(n));
const withUnit = (v, units, n) => {
  let i = 0;
  while (Math.abs(v) >= 999.5 && i + 1 < units.length) { v /= 1000; ++i; }
  return (Math.abs(v) >= 100 ? trim(v.toFixed(n > 3 ? 1 : 0)) : digits(v, n)) + units[i];
};
const format = (v, unit, n = 3) => {
  if (v === null || v === undefined || !isFinite(v)) return '\u2013';
  if (v === 0) return '0';
  if (unit === 'flops') return withUnit(v, [' FLOP', ' kFLOP', ' MFLOP', ' GFLOP', ' TFLOP', ' PFLOP', ' EFLOP', ' ZFLOP'], n);
  if (unit === 'bytes') return withUnit(v, [' B', ' kB', ' MB', ' GB', ' TB'], n);
  if (unit === 'seconds') {
    if (v < 1) return digits(v * 1000, n) + ' ms';
    if (v < 120) return digits(v, n) + ' s';
    const m = Math.round(v / 60);
    if (m < 120) return digits(v / 60, n) + ' min';
    return m % 60 ? Math.floor(m / 60) + 'h' + String(m % 60).padStart(2, '0') : m / 60 + ' h';
  }
  if (unit === 'share') return digits(v * 100, n) + ' %';
  if (unit === 'count' || Math.abs(v) >= 1e5) return withUnit(v, ['', 'k', 'M', 'G', 'T', 'P', 'E'], n);
  if (Math.abs(v) < 1e-2) return trim(v.toExponential(n - 1).replace(/\.?0+e/, 'e'));
  return digits(v, Math.abs(v) >= 1000 ? 4 : n);
};
const axisUnit = () => ({seconds: 'seconds', flops: 'flops'})[state.axis] || 'count';
const color = (table) => `var(--c${(single ? data.tables.indexOf(table) : table.run) % 8})`;
const label = (table) => single ? table.name : data.runs[table.run].name + ' \u00b7 ' + table.name;
const visible = (table) => !state.hidden.has(single ? 't' + table.name : 'r' + table.run) && !state.hidden.has('t' + table.name);

// Exponential mean (a weaker one for short curves, see the call), corrected for its start; gaps stay gaps.
// It starts anew at each stage, so that what a change of the model did is not blurred.
const smoothed = (values, weight, steps, starts) => {
  let sum = 0, total = 0, stage = 0;
  return values.map((v, i) => {
    while (starts.length > stage && steps && steps[i] > starts[stage]) { sum = total = 0; ++stage; }
    if (v === null) return null;
    sum = weight * sum + (1 - weight) * v;
    total = weight * total + (1 - weight);
    return sum / total;
  });
};

// ---- scales ----
const linearTicks = (low, high, count) => {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999) || raw;
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; ++i) ticks.push(i * step);
  return ticks;
};
// Round clock times instead of round numbers of seconds.
const secondTicks = (low, high, count) => {
  const raw = (high - low) / count;
  const step = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400].find((s) => s >= raw);
  if (!step || raw < 1) return linearTicks(low, high, count);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high; ++i) ticks.push(i * step);
  return ticks;
};
const logTicks = (low, high, count) => {
  const all = [];
  for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); ++p)
    for (const m of [1, 2, 5]) if (m * 10 ** p >= low * 0.999 && m * 10 ** p <= high * 1.001) all.push(m * 10 ** p);
  if (all.length < 3) return linearTicks(low, high, count).filter((v) => v > 0);
  let ticks = all;
  if (ticks.length > count * 1.6) ticks = all.filter((v) => Math.abs(Math.log10(v) % 1) < 1e-6);
  const stride = Math.ceil(ticks.length / (count * 1.6));
  return ticks.filter((_, i) => i % stride === 0);
};
const secondLogTicks = (low, high, count) => {
  const all = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 18000, 36000, 86400, 172800, 432000, 864000];
  const ticks = all.filter((v) => v >= low * 0.999 && v <= high * 1.001);
  if (ticks.length < 3) return logTicks(low, high, count);
  const stride = Math.ceil(ticks.length / (count * 1.6));
  return ticks.filter((_, i) => i % stride === 0);
};
const scale = (low, high, from, to, log) => {
  const f = log ? Math.log : (v) => v, g = log ? Math.exp : (v) => v;
  const a = f(low), b = f(high) > a ? f(high) : a + 1;
  const at = (v) => from + (f(v) - a) / (b - a) * (to - from);
  at.invert = (p) => g(a + (p - from) / (to - from) * (b - a));
  return at;
};

// ---- one chart ----
class Chart {
  constructor(spec, parent) {
    this.spec = spec;
    this.card = make('section', {class: 'card chart' + (spec.wide ? ' wide' : '')}, parent);
    const head = make('header', {}, this.card);
    make('div', {}, head, spec.title);
    this.latest = make('span', {}, head);
    this.svg = draw('svg', {role: 'img', 'aria-label': spec.title}, this.card);
    this.tip = make('div', {class: 'tip', hidden: ''}, this.card);
    this.listen();
  }
  series() {
    const out = [];
    for (const table of data.tables) {
      const x = table.columns[state.axis], y = table.columns[this.spec.key];
      if (!x || !y || !visible(table)) continue;
      const soft = !table.dots && this.spec.noisy && state.smooth > 0 && y.length > 20;
      const starts = data.runs[table.run].stages.map((stage) => stage.step).filter((step) => step !== null);
      out.push({table, x, y, line: soft ? smoothed(y, state.smooth ** Math.max(1, 600 / y.length), table.columns.step, starts) : y, soft});
    }
    return out;
  }
  render() {
    const width = this.svg.clientWidth || 600, height = this.spec.wide ? 370 : 190;
    const svg = this.svg;
    svg.replaceChildren();
    svg.setAttribute('height', height);
    svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
    const unit = this.spec.unit, left = 58, right = width - 8, top = this.spec.wide ? 24 : 12, bottom = height - 24;
    const logY = state.logY, list = this.series();
    const usable = (s, i, y) => s.x[i] !== null && y[i] !== null && (!state.logX || s.x[i] > 0) && (!logY || y[i] > 0);
    let x0 = Infinity, x1 = -Infinity, y0 = Infinity, y1 = -Infinity;
    const all = this.all = list.filter((s) => s.y.some((_, i) => usable(s, i, s.y)));
    for (const table of data.tables)  // every chart has the x axis of the whole run
      for (const v of table.columns[state.axis] || [])
        if (v !== null && (!state.logX || v > 0)) { x0 = Math.min(x0, v); x1 = Math.max(x1, v); }
    if (state.range) [x0, x1] = state.range;
    const seen = [];
    for (const s of all)
      for (let i = 0; i < s.y.length; ++i)
        if (usable(s, i, s.y) && s.x[i] >= x0 && s.x[i] <= x1) seen.push(s.y[i]);
    for (const v of seen) { y0 = Math.min(y0, v); y1 = Math.max(y1, v); }
    if (!state.outliers && !logY && !state.logX && seen.length > 100 && this.spec.noisy) {
      // The first steps of a run and single spikes would flatten everything else: let them leave the picture.
      seen.sort((a, b) => a - b);
      const low = seen[Math.floor(seen.length * 0.02)], high = seen[Math.floor(seen.length * 0.97)], span = (high - low) * 1.25;
      if (y1 > low + span) y1 = low + span;
      if (y0 < high - span) y0 = high - span;
    }
    if (!(y0 <= y1)) {
      this.x = null;
      draw('text', {x: width / 2, y: height / 2, 'text-anchor': 'middle'}, svg, 'no values');
      return;
    }
    if (logY) { const pad = y1 > y0 ? (y1 / y0) ** 0.04 : 1.5; y0 /= pad; y1 *= pad; }
    else { const pad = (y1 - y0) * 0.05 || Math.abs(y1) * 0.1 || 1; y1 += pad; y0 = y0 >= 0 && y0 < pad * 4 ? 0 : y0 - pad; }
    if (!(x1 > x0)) { x1 = x0 + Math.max(1, Math.abs(x0) * 0.1); if (!state.logX) x0 -= x1 - x0; }
    const X = this.x = scale(x0, x1, left, right, state.logX), Y = this.y = scale(y0, y1, bottom, top, logY);
    this.area = {left, right, top, bottom};

    const timed = state.axis === 'seconds', room = Math.max(2, (right - left) / 90);
    const ticksX = (state.logX ? (timed ? secondLogTicks : logTicks) : timed ? secondTicks : linearTicks)(x0, x1, room);
    for (const v of (logY ? logTicks : linearTicks)(y0, y1, this.spec.wide ? 7 : 4)) {
      draw('line', {x1: left, x2: right, y1: Y(v), y2: Y(v), stroke: 'var(--grid)'}, svg);
      draw('text', {x: left - 7, y: Y(v) + 4, 'text-anchor': 'end'}, svg, format(v, unit));
    }
    for (const v of ticksX) {
      if (X(v) > right - 14 && ticksX.length > 2) continue;
      draw('text', {x: X(v), y: height - 7, 'text-anchor': X(v) < left + 10 ? 'start' : 'middle'}, svg, format(v, axisUnit()));
    }
    draw('line', {x1: left, x2: right, y1: bottom, y2: bottom, stroke: 'var(--line)'}, svg);
    const clip = 'clip-' + this.spec.key.replace(/\W/g, '_');
    const mask = draw('clipPath', {id: clip}, svg);
    draw('rect', {x: left, y: top - 4, width: right - left, height: bottom - top + 8}, mask);
    if (single) this.stages(svg, X, left, right, top, bottom);

    const plot = draw('g', {'clip-path': `url(#${clip})`, fill: 'none', 'stroke-linejoin': 'round'}, svg);
    const path = (s, y) => {
      let d = '', pen = false;
      for (let i = 0; i < y.length; ++i) {
        if (!usable(s, i, y)) { pen = pen && s.table.dots; continue; }
        d += (pen ? 'L' : 'M') + X(s.x[i]).toFixed(1) + ' ' + Y(y[i]).toFixed(1);
        pen = true;
      }
      return d;
    };
    for (const s of all) {
      const stroke = color(s.table), faint = !single && !s.table.dots && this.spec.wide;
      if (s.soft) draw('path', {d: path(s, s.y), stroke, 'stroke-width': 1, opacity: faint ? 0.12 : 0.28}, plot);
      draw('path', {d: path(s, s.line), stroke, 'stroke-width': s.table.dots ? 2 : 1.6, opacity: faint ? 0.55 : 1}, plot);
      const points = s.y.map((_, i) => i).filter((i) => usable(s, i, s.y));
      if (s.table.dots ? points.length <= 80 : points.length === 1)
        for (const i of points) draw('circle', {cx: X(s.x[i]), cy: Y(s.y[i]), r: 2.6, fill: stroke}, plot);
    }
    this.overlay = draw('g', {}, svg);
    if (single && all.length)
      this.latest.textContent = all.map((s) => {
        const last = s.line.filter((v) => v !== null).at(-1);
        return (all.length > 1 ? s.table.name + ' ' : '') + format(last, unit, 4);
      }).join(' \u00b7 ');
    this.hover();
  }
  stages(svg, X, left, right, top, bottom) {
    const stages = data.runs[0].stages;
    stages.forEach((stage, i) => {
      const at = stage[state.axis];
      if (at === null || at === undefined) return;
      const p = state.logX && at <= 0 ? left : Math.max(left, X(at));
      if (p > right) return;
      const next = stages[i + 1] && stages[i + 1][state.axis], end = next ? Math.min(right, X(next)) : right;
      if (end <= left) return;
      if (i > 0 && p > left) draw('line', {x1: p, x2: p, y1: top - 8, y2: bottom, stroke: 'var(--soft)', 'stroke-dasharray': '3 4', opacity: 0.6}, svg);
      if (this.spec.wide && stages.length > 1 && end - p > 9 * stage.name.length) draw('text', {x: p + 6, y: top - 8}, svg, stage.name);
    });
  }
  // ---- pointer: values under it, drag to zoom, double click to see everything ----
  listen() {
    let start = null;
    const place = (event) => {
      const box = this.svg.getBoundingClientRect();
      return Math.min(this.area.right, Math.max(this.area.left, event.clientX - box.left));
    };
    this.svg.addEventListener('pointermove', (event) => {
      if (!this.x) return;
      state.hover = {chart: this, value: this.x.invert(place(event)), from: start};
      charts.forEach((chart) => chart.hover());
    });
    this.svg.addEventListener('pointerleave', () => { state.hover = null; start = null; charts.forEach((chart) => chart.hover()); });
    this.svg.addEventListener('pointerdown', (event) => { if (this.x && event.pointerType === 'mouse') start = this.x.invert(place(event)); });
    this.svg.addEventListener('pointerup', (event) => {
      if (start === null || !this.x) return;
      const end = this.x.invert(place(event)), wide = Math.abs(this.x(end) - this.x(start)) > 6;
      if (wide) state.range = [Math.min(start, end), Math.max(start, end)];
      start = null;
      if (wide) renderAll();
    });
    this.svg.addEventListener('dblclick', () => { state.range = null; renderAll(); });
  }
  hover() {
    if (this.overlay) this.overlay.replaceChildren();
    this.tip.hidden = true;
    const at = state.hover;
    if (!at || !this.x || !this.overlay || !this.all.length) return;
    const {left, right, top, bottom} = this.area, p = this.x(at.value);
    if (!(p >= left - 1 && p <= right + 1)) return;
    if (at.from !== null && at.chart === this)
      draw('rect', {x: Math.min(p, this.x(at.from)), y: top, width: Math.abs(p - this.x(at.from)), height: bottom - top, fill: 'var(--accent)', opacity: 0.15}, this.overlay);
    draw('line', {x1: p, x2: p, y1: top, y2: bottom, stroke: 'var(--soft)', opacity: 0.5}, this.overlay);
    const rows = [];
    for (const s of this.all) {
      let best = -1;
      for (let i = 0; i < s.x.length; ++i)
        if (s.x[i] !== null && s.y[i] !== null && (best < 0 || Math.abs(s.x[i] - at.value) < Math.abs(s.x[best] - at.value))) best = i;
      if (best < 0 || !isFinite(this.y(s.line[best]))) continue;
      const px = this.x(s.x[best]);
      if (px >= left && px <= right) draw('circle', {cx: px, cy: this.y(s.line[best]), r: 3.5, fill: color(s.table), stroke: 'var(--card)', 'stroke-width': 1.5}, this.overlay);
      rows.push([s, s.soft ? s.line[best] : s.y[best]]);
    }
    if (at.chart !== this || !rows.length) return;
    this.tip.replaceChildren();
    make('div', {class: 'soft'}, this.tip, data.axes.find((a) => a.key === state.axis).label + ' ' + format(at.value, axisUnit(), 4));
    for (const [s, value] of rows) {
      const row = make('div', {}, this.tip);
      make('span', {class: 'swatch', style: `background:${color(s.table)}` + (single || s.table.dots ? '' : ';opacity:.5')}, row);
      make('span', {}, row, label(s.table));
      make('b', {}, row, format(value, this.spec.unit, 4));
    }
    this.tip.hidden = false;
    const beyond = p + this.tip.offsetWidth + 30 > right;
    this.tip.style.left = (beyond ? p - this.tip.offsetWidth : p + 28) + 'px';
    this.tip.style.top = this.spec.wide ? '70px' : '36px';
  }
}

// ---- controls ----
const controls = document.getElementById('controls'), grid = document.getElementById('charts');
const charts = [];
const renderAll = () => charts.forEach((chart) => chart.render());
if (data.axes.length && data.charts.length) {
  const choice = make('div', {class: 'choice', role: 'group', 'aria-label': 'horizontal axis'}, controls);
  for (const axis of data.axes) {
    const button = make('button', {type: 'button', 'aria-pressed': axis.key === state.axis}, choice, axis.label);
    button.addEventListener('click', () => {
      state.axis = axis.key;
      state.range = null;
      for (const other of choice.children) other.setAttribute('aria-pressed', other === button);
      renderAll();
    });
  }
  const toggle = (text, key) => {
    const wrap = make('label', {}, controls);
    const box = make('input', {type: 'checkbox'}, wrap);
    wrap.append(text);
    box.addEventListener('change', () => { state[key] = box.checked; state.range = null; renderAll(); });
  };
  toggle('log x', 'logX');
  toggle('log y', 'logY');
  toggle('outliers', 'outliers');
  const wrap = make('label', {title: 'drag over a chart to zoom, double click to see everything'}, controls, 'smoothing');
  const slider = make('input', {type: 'range', min: 0, max: 0.98, step: 0.02, value: state.smooth}, wrap);
  slider.addEventListener('input', () => { state.smooth = Number(slider.value); renderAll(); });

  const legend = make('div', {id: 'legend'}, controls);
  const item = (key, text, swatch) => {
    const button = make('button', {type: 'button', 'aria-pressed': true}, legend);
    if (swatch) make('span', {class: 'swatch', style: `background:${swatch}`}, button);
    button.append(text);
    button.addEventListener('click', () => {
      state.hidden.has(key) ? state.hidden.delete(key) : state.hidden.add(key);
      button.setAttribute('aria-pressed', !state.hidden.has(key));
      renderAll();
    });
  };
  if (!single) data.runs.forEach((run, i) => item('r' + i, run.name, `var(--c${i % 8})`));
  for (const name of new Set(data.tables.map((t) => t.name))) item('t' + name, name, single ? color(data.tables.find((t) => t.name === name)) : null);
  for (const spec of data.charts) charts.push(new Chart(spec, grid));
  new ResizeObserver(renderAll).observe(grid);
}
})();
)js";

}  // namespace accrete
