// The page: asks the server for what is chosen, and shows it.
"use strict";

import * as plot from "./plot.js";

const $ = (id) => document.getElementById(id);
const POLL_MS = 300;
const whole = new Intl.NumberFormat("en");

let server = null; // what /api/state says
let file = null; // what /api/files/N says
let coloured = null; // what the cells are coloured by
let isGene = false;
let hidden = new Set(); // groups that are not drawn
let probability = null; // of the labels the cells are coloured by, if it was asked for
let nCells = 0;
let selection = null; // {selection, n, flags}
let turn = 0; // of colours: what is asked for later wins
let layoutTurn = 0;
let selectTurn = 0;
let running = null; // stops what the bar shows

// ---- asking

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer. Is `cellfm view` still running in its terminal?");
  }
  if (answer.ok) return answer;
  const text = await answer.text();
  let message = text;
  try {
    message = JSON.parse(text).message;
  } catch {
    // not JSON: shown as it is
  }
  throw new Error(message || `The server answered ${answer.status}.`);
}

const askJson = async (path, options) => (await ask(path, options)).json();
const base = (of = file) => `/api/files/${of.file}`;

// JSON and an array behind it: length of the text, text, values.
async function unframed(answer) {
  const buffer = await answer.arrayBuffer();
  const length = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  return { head, buffer, start: 4 + length };
}

function say(text, { good = false } = {}) {
  $("message").hidden = !text;
  $("message").classList.toggle("good", good);
  $("message-text").textContent = text;
}

function guarded(action) {
  return async (...words) => {
    try {
      await action(...words);
    } catch (error) {
      say(error.message);
    }
  };
}

// ---- work in the background

function showBar(text, done, total, stop) {
  $("job").hidden = false;
  $("job-text").textContent = total ? `${text} (${whole.format(done)} of ${whole.format(total)})` : text;
  if (total) {
    $("job-bar").max = total;
    $("job-bar").value = done;
  } else {
    $("job-bar").removeAttribute("value");
  }
  running = stop;
}

function hideBar() {
  $("job").hidden = true;
  running = null;
}

async function finished(job) {
  const stop = () => ask(`/api/jobs/${job.job}`, { method: "DELETE" });
  try {
    for (;;) {
      if (job.state !== "running") break;
      showBar(`${job.what}: ${job.stage} …`, job.done, job.total, stop);
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
      job = await askJson(`/api/jobs/${job.job}`);
    }
  } finally {
    hideBar();
  }
  if (job.state !== "done") throw new Error(job.message);
  return job.result;
}

// ---- files

async function start() {
  history.replaceState(null, "", "/"); // the token is in a cookie now
  server = await askJson("/api/state");
  listFiles();
  $("files").closest("label").hidden = !server.files.length;
  if (server.files.length) await openFile(server.files[server.files.length - 1].file);
  else showEmpty();
}

function listFiles() {
  $("files").replaceChildren(...server.files.map((one) => new Option(one.name, one.file)));
}

async function openFile(number) {
  file = await askJson(`/api/files/${number}`);
  nCells = file.cells;
  coloured = null;
  plot.clear();
  await select(null);
  $("files").value = String(number);
  $("files").closest("label").hidden = false;
  $("facts").textContent = `${whole.format(file.cells)} cells × ${whole.format(file.genes)} genes`;
  document.title = `${file.name} · CellFM view`;
  $("download").hidden = !file.written;
  $("download").href = `${base()}/download`;
  $("cell").hidden = true;
  fillColumns();
  $("layout").replaceChildren(...file.layouts.map((name) => new Option(name, name)));
  $("layout").disabled = !file.layouts.length;
  showEmpty();
  if (file.layouts.length) await showLayout(file.layouts[0]);
}

function fillColumns() {
  const made = new Set(file.annotations.flatMap((one) => [one.name, one.probability, one.novelty]));
  const groups = [
    ["CellFM annotation", file.columns.filter((c) => made.has(c.name))],
    ["Groups", file.columns.filter((c) => !made.has(c.name) && c.kind === "groups")],
    ["Numbers", file.columns.filter((c) => !made.has(c.name) && c.kind === "numbers")],
  ];
  const shown = groups.filter(([, columns]) => columns.length).map(([label, columns]) => {
    const group = document.createElement("optgroup");
    group.label = label;
    group.append(...columns.map((c) => new Option(c.name, c.name)));
    return group;
  });
  $("column").replaceChildren(new Option("", ""), ...shown);
}

function showEmpty() {
  const button = $("embed");
  const named = server.model === "mini" ? "the small model of the package" : server.model;
  const text = [];
  button.hidden = true;
  for (const part of document.querySelectorAll("aside, .tools")) part.inert = !(file && file.layouts.length);
  $("empty").hidden = Boolean(file && file.layouts.length);
  if (!file) {
    $("empty-title").textContent = "Drop an h5ad file here";
    const then = server.annotator ? ` and labelled by ${server.annotator}` : "";
    text.push(`Raw counts of human cells. The file is embedded by ${named}${then} on this machine, and shown; nothing leaves it.`);
  } else {
    $("empty-title").textContent = "This file has no embedding";
    text.push(`There is nothing in obsm to draw cells by. Embed it here with ${named}, or in a terminal with \`cellfm embed ${file.name} OUT.h5ad\` and view OUT.h5ad. The file itself is not changed.`);
    button.hidden = false;
    const model = server.model === "mini" ? "the mini model" : server.model;
    button.textContent = server.annotator ? `Embed, and label by ${server.annotator}` : `Embed with ${model}`;
  }
  $("empty-text").replaceChildren(...text.map(paragraph));
}

function paragraph(text) {
  const made = document.createElement("p");
  text.split("`").forEach((part, i) => {
    if (i % 2) {
      const code = document.createElement("code");
      code.textContent = part;
      made.append(code);
    } else made.append(part);
  });
  return made;
}

async function showLayout(name) {
  const mine = ++layoutTurn;
  const asked = file;
  const path = (of) => `${base(asked)}/points?layout=${encodeURIComponent(of)}`;
  const stale = () => mine !== layoutTurn || asked !== file;
  $("layout").value = name;
  let answer = await ask(path(name));
  if (answer.status === 202) {
    const job = await answer.json();
    const quick = name.replace(/^UMAP/, "PCA"); // something to look at until then
    if (!coloured) await place(await ask(path(quick)), quick, stale, "UMAP is being computed; until then: ");
    await finished(job);
    if (stale()) return;
    answer = await ask(path(name));
  }
  await place(answer, name, stale, "");
}

async function place(answer, name, stale, before) {
  const { head, buffer, start: from } = await unframed(answer);
  if (stale()) return;
  const values = new Float32Array(buffer, from);
  plot.setPoints(values.subarray(0, nCells), values.subarray(nCells), name);
  $("note").textContent = before + layoutNote(head.note);
  $("csv").dataset.layout = name;
  linkCsv();
  if (coloured) await redraw();
  else if (file.first) await colourBy("obs", file.first);
  else await colourBy("none", "");
}

function layoutNote(note) {
  const parts = [`${note}.`];
  if (!file.embedding) parts.push(`The file has no ${file.wanted}.`);
  if (!plot.hasWebgl() && nCells > plot.mostWithoutWebgl) parts.push(`This browser has no WebGL: about ${whole.format(plot.mostWithoutWebgl)} of the cells are drawn.`);
  return parts.join(" ");
}

// ---- colours

async function colourBy(kind, name) {
  const mine = ++turn;
  const asked = file;
  let found;
  if (kind === "none") {
    found = { kind: "groups", name: "", groups: ["cells"], colours: ["#1f77b4"], counts: [nCells], missing: 0, note: "", values: new Uint16Array(nCells) };
  } else {
    $("colour-note").textContent = "reading …";
    try {
      found = await askColoured(asked, kind, name);
    } catch (error) {
      $("colour-note").textContent = "";
      throw error;
    }
  }
  if (mine !== turn || asked !== file) return;
  coloured = found;
  isGene = kind === "gene";
  hidden = new Set();
  probability = null;
  $("certain").value = "0";
  $("certain-value").value = "0";
  $("column").value = kind === "obs" ? name : "";
  $("gene").value = isGene ? coloured.name : "";
  closeNear();
  await redraw();
  showLegend();
  await showComposition();
}

async function askColoured(asked, kind, name) {
  const { head, buffer, start: from } = await unframed(await ask(`${base(asked)}/${kind}?name=${encodeURIComponent(name)}`));
  const values = head.kind === "groups" ? new Uint16Array(buffer, from, asked.cells) : new Float32Array(buffer, from, asked.cells);
  return { ...head, values };
}

async function redraw() {
  const least = Number($("certain").value);
  let greyed = null;
  if (probability && least > 0) greyed = probability.map((p) => (p < least ? 1 : 0));
  const range = coloured.kind === "numbers" ? plot.colourRange(coloured.values) : null;
  await plot.draw(coloured, { hidden, greyed, isGene, range });
  Object.assign($("plot").dataset, { drawn: coloured.name, layout: $("csv").dataset.layout }); // for whoever waits for it
}

const short = (value) => Number(value.toPrecision(4)).toLocaleString("en", { maximumSignificantDigits: 4 });

function showLegend() {
  const byGroups = coloured.kind === "groups";
  $("legend").hidden = !byGroups;
  $("between").hidden = byGroups;
  const notes = coloured.note ? [coloured.note] : [];
  if (coloured.missing) notes.push(`${whole.format(coloured.missing)} cells without a value`);
  if (byGroups) $("legend").replaceChildren(...coloured.groups.map(legendRow));
  else {
    const range = plot.colourRange(coloured.values);
    if (range) {
      notes.push(`from ${short(range.least)} to ${short(range.most)}`);
      if (range.low > range.least || range.high < range.most) notes.push(`colours from ${short(range.low)} to ${short(range.high)}, the middle 98 %`);
      $("low").value = String(Number(((range.low + range.high) / 2).toPrecision(3)));
      $("high").value = String(Number(range.most.toPrecision(6)));
    }
  }
  $("colour-note").textContent = notes.join("; ");
  showAnnotation();
}

function legendRow(name, group) {
  const row = document.createElement("li");
  const label = document.createElement("label");
  const box = document.createElement("input");
  box.type = "checkbox";
  box.checked = true;
  box.setAttribute("aria-label", `show ${name}`);
  box.addEventListener("change", guarded(async () => {
    if (box.checked) hidden.delete(group);
    else hidden.add(group);
    await redraw();
  }));
  const dot = document.createElement("span");
  dot.className = "dot";
  dot.style.background = coloured.colours[group];
  const text = document.createElement("span");
  text.className = "name";
  text.textContent = text.title = name;
  const n = document.createElement("span");
  n.className = "n";
  n.textContent = whole.format(coloured.counts[group]);
  label.append(box, dot, text, n);
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "select";
  button.setAttribute("aria-label", `select the cells of ${name}`);
  button.addEventListener("click", guarded(() => selectWhere((i) => coloured.values[i] === group)));
  row.append(label, button);
  return row;
}

function annotationHere() {
  return file.annotations.find((one) => [one.name, one.probability, one.novelty].includes(coloured.name) && !isGene);
}

function showAnnotation() {
  const one = annotationHere();
  $("annotation").hidden = !one;
  if (!one) return;
  const share = ((100 * one.unknown) / nCells).toFixed(1);
  const median = one.median === null ? "" : `; median probability ${one.median.toFixed(2)}`;
  $("annotation-text").textContent = `Labels by cellfm annotate: ${whole.format(one.unknown)} of ${whole.format(nCells)} cells unknown (${share} %)${median}.`;
  $("certain").closest("label").hidden = coloured.name !== one.name;
}

// ---- genes

let nearTurn = 0;
let near = [];
let nearAt = -1;

const offerNear = guarded(async () => {
  const mine = ++nearTurn;
  const text = $("gene").value.trim();
  if (!file || text.length < 1) {
    closeNear();
    return;
  }
  const { names } = await askJson(`${base()}/genes?text=${encodeURIComponent(text)}`);
  if (mine !== nearTurn) return;
  near = names;
  nearAt = -1;
  $("near").replaceChildren(...names.map((name, i) => {
    const item = document.createElement("li");
    item.role = "option";
    item.id = `near-${i}`;
    item.textContent = name;
    item.addEventListener("mousedown", (event) => event.preventDefault());
    item.addEventListener("click", guarded(() => colourBy("gene", name)));
    return item;
  }));
  $("near").hidden = !names.length;
  $("gene").setAttribute("aria-expanded", String(names.length > 0));
});

function closeNear() {
  nearTurn += 1;
  nearAt = -1;
  $("near").hidden = true;
  $("gene").setAttribute("aria-expanded", "false");
  $("gene").removeAttribute("aria-activedescendant");
}

function moveNear(step) {
  if ($("near").hidden || !near.length) return;
  nearAt = (nearAt + step + near.length) % near.length;
  [...$("near").children].forEach((item, i) => item.setAttribute("aria-selected", String(i === nearAt)));
  $("gene").setAttribute("aria-activedescendant", `near-${nearAt}`);
  $(`near-${nearAt}`).scrollIntoView({ block: "nearest" });
}

// ---- selections

async function selectWhere(test) {
  const rows = [];
  for (let i = 0; i < nCells; i++) if (test(i)) rows.push(i);
  await select(Uint32Array.from(rows));
  await redraw();
}

async function select(rows) {
  const mine = ++selectTurn;
  for (const id of ["markers", "composition"]) {
    $(id).hidden = true;
    $(id).tBodies[0].replaceChildren(); // nothing of the cells before
  }
  if (!rows || !rows.length) {
    selection = null;
    plot.setSelected(null);
    $("selected").hidden = true;
    $("chosen-text").textContent = rows ? "No cell is there. Draw around some, or choose “select” in the legend." : "Draw around cells with the mouse, or choose “select” in the legend.";
    return;
  }
  const flags = new Uint8Array(nCells);
  for (const row of rows) flags[row] = 1;
  plot.setSelected(flags);
  const asked = file;
  const answer = await askJson(`${base()}/selections`, { method: "POST", body: rows });
  if (asked !== file || mine !== selectTurn) return;
  selection = { ...answer, flags };
  $("chosen-text").textContent = `${whole.format(answer.n)} of ${whole.format(nCells)} cells (${((100 * answer.n) / nCells).toFixed(1)} %)`;
  $("selected").hidden = false;
  linkCsv();
  await showComposition();
}

function linkCsv() {
  const layout = encodeURIComponent($("csv").dataset.layout || "");
  if (selection) $("csv").href = `${base()}/selections/${selection.selection}/cells.csv?layout=${layout}`;
}

async function showComposition() {
  const column = coloured && !isGene && coloured.kind === "groups" && coloured.name ? coloured.name : null;
  $("composition").hidden = true;
  if (!selection || !column) return;
  const mine = selection;
  const { parts } = await askJson(`${base()}/selections/${selection.selection}/composition?name=${encodeURIComponent(column)}`);
  if (mine !== selection || coloured.name !== column) return;
  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  fillTable("composition", `By ${column}`, parts.map((p) => [p.group, whole.format(p.n), percent(p.share), percent(p.share_of_all)]));
}

function fillTable(id, caption, rows) {
  $(id).caption.textContent = caption;
  $(id).tBodies[0].replaceChildren(...rows.map((cells) => {
    const row = document.createElement("tr");
    cells.forEach((value, i) => {
      const cell = row.insertCell();
      if (i) cell.className = "number";
      if (value instanceof Node) cell.append(value);
      else cell.textContent = cell.title = value;
    });
    return row;
  }));
  $(id).hidden = false;
}

async function findMarkers() {
  const mine = selection;
  $("find-markers").disabled = true;
  try {
    const records = await finished(await askJson(`${base()}/selections/${mine.selection}/markers`, { method: "POST" }));
    if (mine !== selection) return;
    const number = (value, digits) => (value === null ? "–" : value.toFixed(digits).replace("-", "−"));
    const percent = (share) => `${(100 * share).toFixed(0)} %`;
    fillTable("markers", "Genes higher in the selection than in other cells (Wilcoxon; ranks genes, proves nothing: the cells were chosen by their looks)", records.map((r) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = r.gene;
      button.title = `colour by ${r.gene}`;
      button.addEventListener("click", guarded(() => colourBy("gene", r.gene)));
      return [button, number(r.score, 1), number(r.log2_fold_change, 1), percent(r.detected_in), percent(r.detected_out)];
    }));
  } finally {
    $("find-markers").disabled = false;
  }
}

async function showCell(row) {
  const { name, values } = await askJson(`${base()}/cells/${row}`);
  $("cell-title").textContent = `Cell ${name}`;
  $("cell-values").replaceChildren(...Object.entries(values).flatMap(([key, value]) => {
    const dt = document.createElement("dt");
    const dd = document.createElement("dd");
    dt.textContent = key;
    dd.textContent = value;
    return [dt, dd];
  }));
  $("cell").hidden = false;
}

// ---- new files

function upload(chosen) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch tells nothing of what is sent
    request.open("PUT", `/api/upload?name=${encodeURIComponent(chosen.name)}`);
    request.responseType = "json";
    request.upload.onprogress = (event) => showBar(`${chosen.name}: copying …`, Math.round(event.loaded / 1e6), Math.round(event.total / 1e6), () => request.abort());
    request.onload = () => (request.status === 200 ? resolve(request.response) : reject(new Error(request.response?.message || `The server answered ${request.status}.`)));
    request.onerror = () => reject(new Error("The copy was broken off. Is `cellfm view` still running, and is there space for the file?"));
    request.onabort = () => reject(new Error(`${chosen.name} was stopped.`));
    request.send(chosen);
  });
}

async function take(chosen) {
  if (running) throw new Error("Something is being worked on. Wait for it, or stop it first.");
  say("");
  if (chosen.size > server.max_upload) throw new Error(`${chosen.name} has ${(chosen.size / 2 ** 30).toFixed(1)} GiB, more than the ${server.max_upload / 2 ** 30} GiB that are allowed. Start with --max-upload, or run \`cellfm embed\` on it and view the result.`);
  let job;
  try {
    job = await upload(chosen);
  } finally {
    hideBar();
  }
  await openMade(job);
}

async function openMade(job) {
  const result = await finished(job);
  server = await askJson("/api/state");
  listFiles();
  if (result.said) say(result.said, { good: true });
  await openFile(result.file);
}

// ---- what the user does

$("files").addEventListener("change", guarded(() => openFile(Number($("files").value))));
$("layout").addEventListener("change", guarded(() => showLayout($("layout").value)));
$("column").addEventListener("change", guarded(() => $("column").value && colourBy("obs", $("column").value)));
$("gene").addEventListener("input", offerNear);
$("gene").addEventListener("blur", closeNear);
$("gene").addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    moveNear(event.key === "ArrowDown" ? 1 : -1);
  } else if (event.key === "Escape") closeNear();
});
$("gene-form").addEventListener("submit", guarded(async (event) => {
  event.preventDefault();
  const name = nearAt >= 0 ? near[nearAt] : $("gene").value.trim();
  if (file && name) await colourBy("gene", name);
}));
$("gene-form").addEventListener("submit", (event) => event.preventDefault());
for (const radio of document.querySelectorAll("#mode input")) radio.addEventListener("change", () => plot.setDrag(radio.value));
$("whole").addEventListener("click", () => plot.showWhole());
$("by-probability").addEventListener("click", guarded(() => colourBy("obs", annotationHere().probability)));
$("by-novelty").addEventListener("click", guarded(() => colourBy("obs", annotationHere().novelty)));
$("certain").addEventListener("input", () => { $("certain-value").value = $("certain").value; });
$("certain").addEventListener("change", guarded(async () => {
  const asked = annotationHere();
  if (!probability) probability = (await askColoured(file, "obs", asked.probability)).values;
  await redraw();
}));
$("between").addEventListener("submit", (event) => event.preventDefault());
$("between").addEventListener("submit", guarded(() => {
  const [low, high] = [Number($("low").value), Number($("high").value)];
  return selectWhere((i) => coloured.values[i] >= low && coloured.values[i] <= high * (1 + 1e-6));
}));
$("find-markers").addEventListener("click", guarded(findMarkers));
$("clear").addEventListener("click", guarded(async () => {
  await select(null);
  await redraw();
}));
$("embed").addEventListener("click", guarded(async () => openMade(await askJson(`${base()}/embed`, { method: "POST" }))));
$("job-stop").addEventListener("click", guarded(async () => running && running()));
$("message-close").addEventListener("click", () => say(""));
$("chosen").addEventListener("change", guarded(async () => {
  const [chosen] = $("chosen").files;
  $("chosen").value = "";
  if (chosen) await take(chosen);
}));

plot.listen({
  onSelect: guarded(async (rows) => {
    await select(rows);
    if (!rows) await redraw();
  }),
  onClick: guarded(showCell),
});

const hasFiles = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
document.addEventListener("dragover", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  const then = server?.annotator ? "embed and annotate" : "embed";
  $("drop").firstElementChild.textContent = `Drop an h5ad file to ${then} it`;
  $("drop").hidden = false;
});
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("drop").hidden = true; });
document.addEventListener("drop", guarded(async (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  $("drop").hidden = true;
  const dropped = [...event.dataTransfer.files];
  if (dropped.length !== 1) throw new Error(`${dropped.length} files were dropped; one h5ad file is taken at a time.`);
  await take(dropped[0]);
}));

guarded(start)();
