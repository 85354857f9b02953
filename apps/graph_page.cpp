// The page of `inspect graph`: a table of modules and ops that fold, with the edges as arcs in its margin.
//
// The script reads the JSON in <script id="data">: graph_json (engine/autograd/graph.h) with "step", "ceilings",
// "parts" and, in every node and module, floor_seconds and backward_floor_seconds.
#include "apps/inspect.h"
#include "training/html.h"

namespace accrete {
namespace {

constexpr std::string_view kStyle = R"css(
main { max-width: 1480px; padding-bottom: 24px; }
.cards { display: grid; grid-template-columns: repeat(6, 1fr); gap: 12px; margin: 16px 0 14px; }
.cards .card { padding: 9px 12px; }
.cards .label, .cards .note { color: var(--soft); font-size: 12.5px; }
.cards .value { font-size: 19px; font-weight: 600; letter-spacing: -0.02em; font-variant-numeric: tabular-nums; line-height: 1.35; white-space: nowrap; }
#parts { columns: 2; column-gap: 36px; }
.part { break-inside: avoid; display: grid; grid-template-columns: minmax(0, 1fr) 120px 150px; gap: 10px; align-items: center; font-size: 13px; height: 23px; }
.part > span:first-child { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.part > span:last-child { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.bar { height: 9px; border-radius: 3px; background: color-mix(in srgb, var(--c) 32%, transparent); overflow: hidden; min-width: 1px; }
.bar i { display: block; height: 100%; background: var(--c); }
.swatch { display: inline-block; width: 22px; height: 9px; border-radius: 3px; vertical-align: 0; }
#bar { display: flex; flex-wrap: wrap; gap: 8px 16px; align-items: center; margin: 20px 0 10px; font-size: 13.5px; }
#bar h2 { margin: 0 auto 0 0; }
.choice { display: inline-flex; background: var(--line); border-radius: 8px; padding: 2px; }
.choice button { border: 0; background: none; color: var(--soft); font: inherit; padding: 2px 11px; border-radius: 6px; cursor: pointer; }
.choice button[aria-pressed=true] { background: var(--card); color: var(--ink); box-shadow: 0 1px 2px #0002; }
#work { display: grid; grid-template-columns: minmax(0, 1fr) 330px; gap: 14px; align-items: start; }
#list { padding: 0; position: relative; overflow-x: auto; }
#rows { position: relative; min-width: 800px; }
.row { display: grid; grid-template-columns: 74px minmax(200px, 1fr) 138px 86px 118px 78px 76px 76px; height: 25px; align-items: center;
  font-size: 13px; font-variant-numeric: tabular-nums; white-space: nowrap; cursor: pointer; padding-right: 12px; }
.row > * { overflow: hidden; text-overflow: ellipsis; padding-left: 10px; }
.row .n { text-align: right; }
.row.head { color: var(--soft); font-size: 12.5px; cursor: default; border-bottom: 1px solid var(--line); height: 32px; }
.row.module { font-weight: 600; }
.row.open { background: color-mix(in srgb, var(--line) 42%, transparent); }
.row:not(.head):hover { background: color-mix(in srgb, var(--accent) 9%, transparent); }
.row.near { background: color-mix(in srgb, var(--accent) 9%, transparent); }
.row.chosen { background: color-mix(in srgb, var(--accent) 20%, transparent); }
.row .fold { display: inline-block; width: 15px; color: var(--soft); }
.row .weight, .row .soft { color: var(--soft); font-weight: 400; }
#arcs { position: absolute; left: 0; top: 32px; pointer-events: none; }
#arcs path { fill: none; stroke: var(--soft); stroke-width: 1.1; opacity: 0.45; }
#arcs circle { fill: var(--soft); }
#arcs path.lit { stroke: var(--accent); opacity: 1; stroke-width: 2; }
#arcs.dim path:not(.lit) { opacity: 0.13; }
#detail { position: sticky; top: 12px; max-height: calc(100vh - 24px); overflow-y: auto; font-size: 13px; }
#detail h3 { margin: 0; font-size: 16px; overflow-wrap: anywhere; }
#detail table { margin-top: 8px; }
#detail th, #detail td { padding: 3px 0; }
#detail td { text-align: right; overflow-wrap: anywhere; }
#detail tr:last-child th { border-bottom: 0; }
#detail h4 { margin: 12px 0 2px; font-size: 12.5px; color: var(--soft); font-weight: 500; }
#detail ul { margin: 0; padding: 0; list-style: none; }
#detail li { padding: 2px 0; border-top: 1px solid var(--line); overflow-wrap: anywhere; }
#detail a { color: var(--accent); cursor: pointer; }
@media (max-width: 1050px) { #work { grid-template-columns: 1fr; } .cards { grid-template-columns: repeat(3, 1fr); } #parts { columns: 1; } }
)css";

constexpr std::string_view kScript = R"js(
(() => {
'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const step = data.step, nodes = data.nodes;
const byId = (id) => document.getElementById(id);
const make = (tag, cls = '', parent = null, text = null) => {
  const e = document.createElement(tag);
  if (cls) e.className = cls;
  if (text !== null) e.textContent = text;
  if (parent) parent.append(e);
  return e;
};

// ---- numbers as a person reads them ----
const scaled = (v, units, base) => {
  let i = 0;
  while (Math.abs(v) >= base * 0.9995 && i + 1 < units.length) { v /= base; ++i; }
  return [v >= 100 ? v.toFixed(0) : v >= 10 ? v.toFixed(1) : v.toFixed(2), units[i]];
};
const count = (v) => v === 0 ? '0' : v < 1000 ? String(Math.round(v)) : scaled(v, ['', ' k', ' M', ' G', ' T', ' P'], 1000).join('');
const bytes = (v) => v < 1024 ? v.toFixed(0) + ' B' : scaled(v, ['B', 'KiB', 'MiB', 'GiB', 'TiB'], 1024).join(' ');
const time = (s) => s >= 1 ? s.toFixed(2) + ' s' : s >= 1e-3 ? (s * 1e3).toFixed(s >= 0.1 ? 0 : s >= 0.01 ? 1 : 2) + ' ms' : (s * 1e6).toFixed(0) + ' µs';
const percent = (v) => (100 * v).toFixed(v < 0.0995 ? 1 : 0) + ' %';
const shape = (s) => s.length ? s.join(' × ') : 'one number';

// ---- the tree: modules hold modules and ops, in the order in which they ran ----
const root = {path: '', children: [], first: 0, parent: null};
const modules = new Map([['', root]]);
for (const m of data.modules) {
  const known = modules.get(m.path) || {path: m.path, children: []};
  Object.assign(known, m);
  modules.set(m.path, known);
}
for (const m of modules.values()) {
  if (m.path === '') continue;
  m.parent = modules.get(m.path.includes('.') ? m.path.slice(0, m.path.lastIndexOf('.')) : '');
  m.first = Infinity;
  m.last = -1;
}
for (const n of nodes) {
  n.parent = modules.get(n.module);
  n.first = n.id;
  n.parent.children.push(n);
  for (let m = n.parent; m && m !== root; m = m.parent) { m.first = Math.min(m.first, n.id); m.last = Math.max(m.last, n.id); }
}
for (const m of modules.values()) if (m.parent) m.parent.children.push(m);
for (const m of modules.values()) m.children.sort((a, b) => a.first - b.first);
const isModule = (x) => x.children !== undefined;
const depthOf = (x) => { let d = 0; for (let p = x.parent; p && p !== root; p = p.parent) ++d; return d; };

// ---- state ----
const state = {direction: 'both', open: new Set(), chosen: null};
const openTo = (level) => {
  state.open.clear();
  for (const m of modules.values()) if (m !== root && (level === 'all' || depthOf(m) < level)) state.open.add(m);
};
openTo(1);
const firstBlock = [...modules.values()].find((m) => /\.0$/.test(m.path));
if (firstBlock && nodes.length < 4000) for (const m of modules.values()) if (m === firstBlock || m.path.startsWith(firstBlock.path + '.')) state.open.add(m);
const pick = (x, key) => state.direction === 'forward' ? x[key] : state.direction === 'backward' ? x['backward_' + key] : x[key] + x['backward_' + key];

// ---- colours by kind of op ----
const kinds = ['linear', 'mlp', 'attention', 'linear_cross_entropy', 'cross_entropy', 'residual_layernorm', 'embedding', 'add'];
const colourOf = (x) => {
  const op = isModule(x) ? null : x.op.replace('linear_gelu', 'linear').replace('layernorm', 'residual_layernorm').replace('residual_residual', 'residual');
  const i = kinds.indexOf(op);
  return isModule(x) ? 'var(--c7)' : i >= 0 ? `var(--c${i})` : 'var(--c7)';
};
const bar = (parent, seconds, floor, most, colour) => {
  const b = make('div', 'bar', parent);
  b.style.setProperty('--c', colour);
  b.style.width = (100 * seconds / Math.max(most, 1e-12)) + '%';
  make('i', '', b).style.width = Math.min(100, 100 * floor / Math.max(seconds, 1e-12)) + '%';
};

// ---- cards and the list of gaps ----
const card = (label, value, note) => {
  const c = make('div', 'card', byId('cards'));
  make('div', 'label', c, label);
  make('div', 'value', c, value);
  make('div', 'note', c, note);
};
card('Step', time(step.seconds), `best of ${step.repeats}; ${count(step.batch * step.length / step.seconds)} ${step.rate_unit}`);
card('Forward, backward', `${time(step.forward_seconds)}, ${time(step.backward_seconds)}`, `update ${time(step.optimizer_seconds)}`);
card('Arithmetic', scaled(step.flops, ['', ' k', ' M', ' G', ' T', ' P'], 1000).join('') + 'FLOP', `${count(step.flops / step.seconds)}FLOP/s, ${percent(step.flops / step.seconds / step.ceiling_flops)} of ceiling`);
card('Memory traffic', bytes(step.bytes), `copy ceiling ${bytes(step.ceiling_bytes)}/s`);
card('Kept for backward', bytes(data.totals.saved_bytes), `${count(step.params)} parameters`);
card('Floor', time(step.floor_seconds), `${percent(step.floor_seconds / step.seconds)} of the time is needed`);
const parts = data.parts.filter((p) => p.seconds > p.floor_seconds).slice(0, 12), mostPart = Math.max(...parts.map((p) => p.seconds));
for (const p of parts) {
  const row = make('div', 'part', byId('parts'));
  const op = p.where.split(' ').find((w) => kinds.includes(w) || w.endsWith('layernorm')) || '';
  make('span', '', row, p.where + (p.count > 1 ? ` (${p.count})` : '')).title = p.where;
  bar(make('span', '', row), p.seconds, p.floor_seconds, mostPart, colourOf({op}));
  make('span', '', row, `${time(p.seconds)}, gap ${time(p.seconds - p.floor_seconds)}`);
}

// ---- the rows ----
let rows = [];
const rowOf = new Map();
const name = (x) => isModule(x) ? x.path.slice(x.path.lastIndexOf('.') + 1) : x.op;
const visible = () => {
  const out = [];
  const walk = (m) => { for (const c of m.children) { out.push(c); if (isModule(c) && state.open.has(c)) walk(c); } };
  walk(root);
  return out;
};
const draw = () => {
  const list = byId('rows');
  list.querySelectorAll('.row:not(.head)').forEach((e) => e.remove());
  rows = visible();
  rowOf.clear();
  const closed = rows.filter((x) => !(isModule(x) && state.open.has(x)));
  const most = Math.max(...closed.map((x) => pick(x, 'seconds')), 1e-12);
  rows.forEach((x, i) => {
    const open = isModule(x) && state.open.has(x);
    const row = make('div', 'row' + (isModule(x) ? ' module' : '') + (open ? ' open' : '') + (state.chosen === x ? ' chosen' : ''), list);
    rowOf.set(x, {index: i, row});
    make('span', '', row);
    const label = make('span', '', row);
    label.style.paddingLeft = (10 + 17 * depthOf(x)) + 'px';
    make('span', 'fold', label, isModule(x) ? (open ? '▾' : '▸') : '');
    label.append(name(x));
    if (!isModule(x) && x.weight) make('span', 'weight', label, '  ' + x.weight);
    if (isModule(x)) make('span', 'weight', label, `  ${x.ops} op${x.ops === 1 ? '' : 's'}`);
    make('span', 'soft', row, isModule(x) ? '' : x.outputs.map(shape).join(', '));
    const seconds = pick(x, 'seconds'), flops = pick(x, 'flops');
    make('span', 'n', row, time(seconds));
    const cell = make('span', '', row);
    if (!open) bar(cell, seconds, pick(x, 'floor_seconds'), most, colourOf(x));
    make('span', 'n', row, flops > 1e5 ? count(flops) : '');
    make('span', 'n', row, bytes(pick(x, 'bytes')));
    make('span', 'n', row, x.saved_bytes > 0 ? bytes(x.saved_bytes) : '');
    row.addEventListener('click', () => {
      if (isModule(x)) { open ? state.open.delete(x) : state.open.add(x); }
      state.chosen = x;
      draw();
      show(x);
    });
    row.addEventListener('mouseenter', () => light(x));
    row.addEventListener('mouseleave', () => light(state.chosen));
  });
  arcs();
  light(state.chosen);
};

// ---- arcs from producer to consumer, in the margin ----
const kRow = 25, kGutter = 74;
const shownAs = (n) => { let x = n; for (let m = n.parent; m && m !== root; m = m.parent) if (!state.open.has(m)) x = m; return x; };
let edges = [];
const arcs = () => {
  const svg = byId('arcs');
  svg.textContent = '';
  svg.setAttribute('width', kGutter);
  svg.setAttribute('height', rows.length * kRow);
  const seen = new Map();
  edges = [];
  for (const n of nodes) {
    const to = shownAs(n);
    for (const input of n.inputs) {
      if (!input || input.node === undefined) continue;
      const from = shownAs(nodes[input.node]);
      if (from === to) continue;
      const key = rowOf.get(from).index + ':' + rowOf.get(to).index;
      if (!seen.has(key)) { seen.set(key, true); edges.push({from, to}); }
    }
  }
  const dots = new Set();
  for (const e of edges) {
    const a = rowOf.get(e.from).index, b = rowOf.get(e.to).index;
    const y1 = (a + 0.5) * kRow, y2 = (b + 0.5) * kRow, x = kGutter - 7;
    let between = 0;  // rows that the edge passes
    for (let i = a + 1; i < b; ++i) if (!(isModule(rows[i]) && state.open.has(rows[i]))) ++between;
    const reach = between === 0 ? 0 : Math.min(kGutter - 14, 14 + 11 * Math.log2(1 + between));
    const path = document.createElementNS('http://www.w3.org/2000/svg', 'path');
    path.setAttribute('d', reach === 0 ? `M${x},${y1} L${x},${y2 - 4} M${x - 3},${y2 - 8} L${x},${y2 - 4} L${x + 3},${y2 - 8}`
      : `M${x},${y1} C${x - reach * 1.3},${y1} ${x - reach * 1.3},${y2} ${x - 4},${y2} M${x - 8},${y2 - 3} L${x - 4},${y2} L${x - 8},${y2 + 3}`);
    svg.append(path);
    e.path = path;
    dots.add(a);
    dots.add(b);
  }
  for (const i of dots) {
    const c = document.createElementNS('http://www.w3.org/2000/svg', 'circle');
    c.setAttribute('cx', kGutter - 7);
    c.setAttribute('cy', (i + 0.5) * kRow);
    c.setAttribute('r', 2.6);
    svg.append(c);
  }
};
const light = (x) => {
  for (const {row} of rowOf.values()) row.classList.remove('near');
  let any = false;
  for (const e of edges) {
    const lit = x !== null && (e.from === x || e.to === x);
    e.path.classList.toggle('lit', lit);
    if (lit) {
      any = true;
      rowOf.get(e.from).row.classList.add('near');
      rowOf.get(e.to).row.classList.add('near');
    }
  }
  byId('arcs').classList.toggle('dim', any);
};

// ---- details of one row ----
const reveal = (n) => {
  for (let m = n.parent; m && m !== root; m = m.parent) state.open.add(m);
  state.chosen = n;
  draw();
  show(n);
  rowOf.get(n).row.scrollIntoView({block: 'nearest'});
};
const show = (x) => {
  const d = byId('detail');
  d.textContent = '';
  make('h3', '', d, isModule(x) ? x.path || 'the whole step' : x.op + (x.weight ? ' ' + x.weight : ''));
  make('div', 'soft', d, isModule(x) ? `${x.ops} op${x.ops === 1 ? '' : 's'}` : `op ${x.id} in ${x.module || 'the model'}, ${x.dtype}`);
  const table = make('table', '', d);
  const head = make('tr', '', table);
  for (const h of ['', 'forward', 'backward']) { const th = make('th', '', head, h); th.style.textAlign = h ? 'right' : 'left'; }
  const line = (label, f, b) => { const tr = make('tr', '', table); make('th', '', tr, label); make('td', '', tr, f); make('td', '', tr, b); };
  const both = (label, key, form) => line(label, form(x[key]), form(x['backward_' + key]));
  both('time', 'seconds', time);
  both('floor', 'floor_seconds', time);
  both('FLOP', 'flops', count);
  both('memory traffic', 'bytes', bytes);
  const rate = (key, s, form) => x[s] > 0 && x[key] > 0 ? form(x[key] / x[s]) : '';
  line('rate', rate('flops', 'seconds', (v) => count(v) + 'FLOP/s'), rate('backward_flops', 'backward_seconds', (v) => count(v) + 'FLOP/s'));
  line('', rate('bytes', 'seconds', (v) => bytes(v) + '/s'), rate('backward_bytes', 'backward_seconds', (v) => bytes(v) + '/s'));
  line('share of step', percent(x.seconds / step.seconds), percent(x.backward_seconds / step.seconds));
  make('h4', '', d, `Kept for backward: ${bytes(x.saved_bytes)}`);
  if (isModule(x)) return;
  const tensors = (title, items) => {
    if (title) make('h4', '', d, title);
    const ul = make('ul', '', d);
    for (const item of items) item(make('li', '', ul));
    if (items.length === 0) make('li', 'soft', ul, 'nothing');
  };
  tensors('', x.saved.map((s) => (li) => { li.append(`${shape(s.shape)} ${s.dtype}, ${bytes(s.bytes)}`); if (!s.counted) make('span', 'soft', li, s.segment === 'activations' || s.segment === 'workspace' ? ' (already kept by an op before)' : ` (${s.segment}: there anyway)`); }));
  tensors('Inputs', x.inputs.filter((i) => i).map((i) => (li) => {
    li.append(`${shape(i.shape)} ${i.dtype} `);
    if (i.node !== undefined) {
      const a = make('a', '', li, `from ${nodes[i.node].op} ${nodes[i.node].weight}`);
      a.addEventListener('click', () => reveal(nodes[i.node]));
    } else make('span', 'soft', li, i.parameter ? `parameter ${i.parameter}` : 'data');
  }));
  tensors('Outputs', x.outputs.map((s) => (li) => li.append(`${shape(s)} ${x.dtype}`)));
  const users = nodes.filter((n) => n.inputs.some((i) => i && i.node === x.id));
  if (users.length) tensors('Used by', users.map((u) => (li) => { const a = make('a', '', li, `${u.op} ${u.weight}`); make('span', 'soft', li, ' in ' + (u.module || 'the model')); a.addEventListener('click', () => reveal(u)); }));
};

// ---- controls ----
const choice = (id, options, value, set) => {
  const box = byId(id);
  for (const [key, label] of options) {
    const b = make('button', '', box, label);
    b.type = 'button';
    b.setAttribute('aria-pressed', key === value);
    b.addEventListener('click', () => {
      box.querySelectorAll('button').forEach((other) => other.setAttribute('aria-pressed', other === b));
      set(key);
      draw();
    });
  }
};
choice('direction', [['both', 'Both'], ['forward', 'Forward'], ['backward', 'Backward']], 'both', (v) => { state.direction = v; });
choice('level', [[0, 'Modules'], [1, 'Blocks'], [2, 'Layers'], ['all', 'All ops']], null, (v) => openTo(v));
root.ops = data.totals.ops;
draw();
show(firstBlock || root);
})();
)js";

}  // namespace

std::string graph_page(const Json& graph) {
  const Json& s = graph["step"];
  const std::string title = "One training step: " + s["title"].get<std::string>();
  std::string body = "<h1>" + html_escape(title) + "</h1>\n<p class=\"soft\">batch " + s["batch"].dump() + " × " +
                     s["length"].dump() + " tokens, " + html_escape(s["precision"].get<std::string>()) +
                     (s["recompute"].get<bool>() ? ", recompute" : "") + ", device " +
                     html_escape(s["device"].get<std::string>()) + ", " + graph["ceilings"]["threads"].dump() +
                     " threads; every op ran and was timed</p>\n";
  body += R"html(<div id="cards" class="cards"></div>
<section class="card"><p style="margin:0 0 6px"><b>Largest gaps</b> <span class="soft">between the time of ops that are alike and their floor,
<span class="swatch" style="background:var(--c7)"></span> FLOP / measured product ceiling + bytes / measured copy bandwidth;
<span class="swatch" style="background:color-mix(in srgb, var(--c7) 32%, transparent)"></span> the rest of the time</span></p><div id="parts"></div></section>
<div id="bar"><h2>Graph</h2><span class="choice" id="direction"></span><span class="choice" id="level"></span></div>
<div id="work"><div id="list" class="card"><div id="rows"><svg id="arcs"></svg><div class="row head"><span>data flow</span><span>module, op</span><span>output</span>
<span class="n">time</span><span></span><span class="n">FLOP</span><span class="n">bytes</span><span class="n">kept</span></div></div></div>
<aside id="detail" class="card"></aside></div>
)html";
  body += "<script type=\"application/json\" id=\"data\">" + html_json(graph) + "</script>\n";
  return html_page(title, body, kStyle, kScript);
}

}  // namespace accrete
