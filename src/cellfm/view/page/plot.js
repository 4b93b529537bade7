// The map of the cells: one WebGL trace a group, or one for numbers. Knows nothing of the server.
"use strict";

export const NONE = 0xffff;
const GREY = "#c3c9cf";
const GENE_SCALE = [[0, "#dde2e7"], [0.3, "#fdbb84"], [0.65, "#e34a33"], [1, "#7f0000"]];
const SVG_CELLS = 10000; // drawn where there is no WebGL

const element = () => document.getElementById("plot");
const webgl = (() => {
  try {
    return Boolean(document.createElement("canvas").getContext("webgl"));
  } catch {
    return false;
  }
})();

let x = new Float32Array(0);
let y = new Float32Array(0);
let rowsOfTrace = [];
let selected = null; // Uint8Array: 1 for selected cells
let view = { name: "", revision: 0, drag: "lasso" };
let listened = false;
let watcher = null; // bars above the map come and go
let heard = { onSelect() {}, onClick() {} };

export const hasWebgl = () => webgl;
export const mostWithoutWebgl = SVG_CELLS;

export function listen(handlers) {
  heard = handlers;
}

export function setPoints(newX, newY, name) {
  x = newX;
  y = newY;
  view.name = name;
  view.revision += 1;
}

export function setSelected(flags) {
  selected = flags;
}

export function setDrag(mode) {
  view.drag = mode;
  if (listened) Plotly.relayout(element(), { dragmode: mode });
}

export function showWhole() {
  if (listened) Plotly.relayout(element(), { "xaxis.autorange": true, "yaxis.autorange": true });
}

export function clear() {
  if (listened) Plotly.purge(element());
  listened = false;
}

const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;");

function size(n) {
  return n > 200000 ? 1.8 : n > 50000 ? 2.4 : n > 10000 ? 3.4 : n > 3000 ? 4.6 : 6.5;
}

// Without WebGL every so-manyeth cell is drawn: the browser could not move more.
function thinned(rows, n) {
  if (webgl || n <= SVG_CELLS) return rows;
  const step = Math.ceil(n / SVG_CELLS);
  return rows.filter((row) => row % step === 0);
}

function trace(rows, n, name, marker) {
  rows = thinned(rows, n);
  const tx = new Float32Array(rows.length);
  const ty = new Float32Array(rows.length);
  const chosen = [];
  for (let i = 0; i < rows.length; i++) {
    tx[i] = x[rows[i]];
    ty[i] = y[rows[i]];
    if (selected && selected[rows[i]]) chosen.push(i);
  }
  rowsOfTrace.push(rows);
  return {
    type: webgl ? "scattergl" : "scatter",
    mode: "markers",
    x: tx,
    y: ty,
    name: escaped(name),
    showlegend: false,
    marker: { size: size(n), opacity: 0.85, line: { width: 0 }, ...marker },
    selectedpoints: selected ? chosen : undefined,
    selected: { marker: { opacity: 1 } },
    unselected: { marker: { opacity: 0.12 } },
  };
}

// shown: for each cell its group, or NONE; groups drawn from the largest to the smallest, what is unknown below all.
function groupTraces(coloured, hidden, greyed) {
  const n = x.length;
  const code = coloured.values;
  const sizes = new Uint32Array(coloured.groups.length);
  let nOther = 0;
  const groupOf = new Uint16Array(n);
  for (let i = 0; i < n; i++) {
    const group = greyed && greyed[i] ? NONE : code[i];
    groupOf[i] = group;
    if (group === NONE) nOther += 1;
    else sizes[group] += 1;
  }
  const rows = Array.from(sizes, (count) => new Uint32Array(count));
  const other = new Uint32Array(nOther);
  const at = new Uint32Array(sizes.length);
  let atOther = 0;
  for (let i = 0; i < n; i++) {
    if (groupOf[i] === NONE) other[atOther++] = i;
    else rows[groupOf[i]][at[groupOf[i]]++] = i;
  }
  const isGrey = (group) => coloured.colours[group] === GREY;
  const order = [...sizes.keys()].sort((a, b) => isGrey(b) - isGrey(a) || sizes[b] - sizes[a]);
  const traces = [];
  if (nOther) traces.push(trace(other, n, greyed ? "below the probability" : "no value", { color: GREY }));
  for (const group of order) {
    if (hidden.has(group) || !sizes[group]) continue;
    traces.push(trace(rows[group], n, coloured.groups[group], { color: coloured.colours[group] }));
  }
  for (const one of traces) one.hovertemplate = "%{fullData.name}<extra></extra>";
  return traces;
}

// The values between which colours change: the middle 98 of 100, or all if these are one.
export function colourRange(values) {
  const sorted = values.filter(Number.isFinite).sort();
  if (!sorted.length) return null;
  const least = sorted[0];
  const most = sorted[sorted.length - 1];
  const low = sorted[Math.floor(0.01 * (sorted.length - 1))];
  const high = sorted[Math.ceil(0.99 * (sorted.length - 1))];
  return low < high ? { low, high, least, most } : { low: least, high: most, least, most };
}

function numberTraces(coloured, range, isGene) {
  const values = coloured.values;
  const all = new Uint32Array(values.length).map((_, i) => i);
  const there = all.filter((i) => Number.isFinite(values[i]));
  const gone = all.filter((i) => !Number.isFinite(values[i]));
  there.sort((a, b) => values[a] - values[b]); // the highest on top
  const traces = [];
  if (gone.length) traces.push({ ...trace(gone, values.length, "no value", { color: GREY }), hovertemplate: "no value<extra></extra>" });
  if (!there.length) return traces;
  const drawn = thinned(there, values.length);
  const marker = {
    color: Float32Array.from(drawn, (i) => values[i]),
    colorscale: isGene ? GENE_SCALE : "Viridis",
    cmin: range.low,
    cmax: range.high,
    showscale: true,
    colorbar: { title: { text: escaped(coloured.name), side: "right" }, thickness: 12, len: 0.6, outlinewidth: 0 },
  };
  traces.push({ ...trace(there, values.length, coloured.name, marker), hovertemplate: "%{marker.color:.4g}<extra></extra>" });
  return traces;
}

export async function draw(coloured, { hidden = new Set(), greyed = null, isGene = false, range = null } = {}) {
  rowsOfTrace = [];
  const traces = coloured.kind === "groups" ? groupTraces(coloured, hidden, greyed) : numberTraces(coloured, range, isGene);
  const axis = { showgrid: false, zeroline: false, showticklabels: false, ticks: "", showline: true, linecolor: "#dfe4e9", mirror: true };
  const name = view.name.replace(/ of .*/, "").replace(/^X_/, "");
  const layout = {
    margin: { l: 26, r: 8, t: 6, b: 24 },
    xaxis: { ...axis, title: { text: `${escaped(name)} 1`, standoff: 4 } },
    yaxis: { ...axis, title: { text: `${escaped(name)} 2`, standoff: 4 }, scaleanchor: "x" },
    font: { family: 'system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif', size: 12, color: "#5b6672" },
    dragmode: view.drag,
    hovermode: "closest",
    uirevision: view.revision,
    selectionrevision: Math.random(),
    selections: [],
    newselection: { line: { color: "#1f5fa8", width: 1.5 } },
    paper_bgcolor: "#fff",
    plot_bgcolor: "#fff",
  };
  const config = { displayModeBar: false, responsive: false, scrollZoom: true, doubleClick: "reset" };
  await Plotly.react(element(), traces, layout, config);
  if (!listened) {
    listened = true;
    if (!watcher) {
      watcher = new ResizeObserver(() => listened && Plotly.Plots.resize(element()));
      watcher.observe(element());
    }
    element().on("plotly_selected", (event) => event && heard.onSelect(rowsOf(event.points)));
    element().on("plotly_deselect", () => heard.onSelect(null));
    element().on("plotly_click", (event) => heard.onClick(rowsOf(event.points)[0]));
  }
}

function rowsOf(points) {
  const rows = new Uint32Array(points.length);
  for (let i = 0; i < points.length; i++) rows[i] = rowsOfTrace[points[i].curveNumber][points[i].pointNumber ?? points[i].pointIndex];
  return rows;
}
