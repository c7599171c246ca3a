// The page: choose an image, look at its labels, correct them, save them.

import { Editor } from "./editor.js";
import { download, request, unpack } from "./service.js";

const $ = (id) => document.getElementById(id);
const percent = new Intl.NumberFormat("en", { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });
const editor = new Editor(onCorrection);
let models = [];
let current = null; // file, stem and result of the image that is shown
let zoom = 1;
let requests = 0;

function say(text, isError = false) {
  $("message").textContent = text;
  $("message").classList.toggle("error", isError);
}

/** Run an action, and show its error instead of losing it. */
function guarded(action) {
  return async (...values) => {
    try {
      await action(...values);
    } catch (error) {
      say(error.message, true);
    }
  };
}

const model = () => models.find(({ name }) => name === $("model").value) ?? models[0];

const start = guarded(async () => {
  models = (await (await request("/models")).json()).models;
  $("model").replaceChildren(...models.map(({ name, title }) => new Option(`${name} (${title})`, name)));
  $("model").disabled = models.length < 2;
});

/** Segment a file and show it. */
const segment = guarded(async (file, isNew = false) => {
  if (!file) return;
  const number = ++requests; // answers to earlier requests are dropped, so image and labels belong together
  const used = model();
  say(`Segmenting ${file.name} …`);
  document.body.classList.add("busy");
  const begin = performance.now();
  try {
    const query = new URLSearchParams({ output: "all", model: used.name });
    const response = await request(`/predict?${query}`, { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } });
    const [result] = (await response.json()).images;
    const elapsed = performance.now() - begin;
    const labels = await unpack(result.labels, used.classes.length > 255);
    if (number !== requests) return;
    current = { file, stem: file.name.replace(/\.[^.]*$/, ""), result, isNew, model: used.name };
    await drawImage(file, result);
    if (number !== requests) return;
    editor.open(labels, result.width, result.height, used.classes.map(({ color }) => color), used.background);
    await drawDoubt(result);
    $("work").hidden = false;
    $("save-image").hidden = !isNew;
    $("undo").disabled = true;
    setZoom(1);
    showAreas(result, used);
    showTiming(result, elapsed);
    say("");
  } finally {
    if (number === requests) document.body.classList.remove("busy");
  }
});

/** Draw the file upright. Browsers lack some formats, such as TIFF: then only the labels are shown. */
async function drawImage(file, { width, height }) {
  const context = $("image").getContext("2d");
  Object.assign($("image"), { width, height });
  $("stack").style.aspectRatio = `${width} / ${height}`;
  const bitmap = await createImageBitmap(file, { imageOrientation: "from-image" }).catch(() => null);
  if (bitmap) context.drawImage(bitmap, 0, 0, width, height);
}

/** Draw a layer that is the more opaque the less certain a pixel is. */
async function drawDoubt({ confidence, width, height }) {
  $("uncertain-choice").hidden = confidence === null;
  if (confidence === null) return;
  const values = await unpack(confidence, false);
  const image = new ImageData(width, height);
  values.forEach((value, index) => image.data.set([255, 0, 170, 255 - value], 4 * index));
  Object.assign($("doubt"), { width, height });
  $("doubt").getContext("2d").putImageData(image, 0, 0);
}

/** Fill the table of classes, those in the image first. */
function showAreas({ areas }, used) {
  const rows = used.classes.map(({ name, color }, id) => ({ id, name, color, ...areas[name] }));
  rows.sort((a, b) => b.pixels - a.pixels || a.id - b.id);
  const background = used.background ?? rows[0].id;
  const chosen = rows.find(({ id }) => id !== background)?.id ?? 0;
  $("areas").tBodies[0].replaceChildren(...rows.map((row) => classRow(row, row.id === chosen)));
  editor.classId = chosen;
}

function classRow({ id, name, color, pixels, share, confidence }, isChosen) {
  const row = document.createElement("tr");
  const label = document.createElement("label");
  const choice = Object.assign(document.createElement("input"), { type: "radio", name: "class", value: id, checked: isChosen });
  const swatch = document.createElement("i");
  swatch.style.backgroundColor = `rgb(${color})`;
  choice.addEventListener("change", () => (editor.classId = id));
  label.append(choice, swatch, name);
  const cells = [percent.format(share), pixels.toLocaleString("en"), confidence == null ? "" : percent.format(confidence)];
  row.dataset.id = id;
  row.classList.toggle("absent", !pixels);
  row.append(Object.assign(document.createElement("th"), { scope: "row" }), ...cells.map((text) => Object.assign(document.createElement("td"), { textContent: text })));
  row.firstChild.append(label);
  return row;
}

function showTiming({ ms, width, height, mean_confidence: confidence }, elapsed) {
  const batch = ms.batch > 1 ? ` in a batch of ${ms.batch}` : "";
  const certain = confidence === undefined ? "" : ` Mean confidence ${percent.format(confidence)}.`;
  $("timing").textContent = `${width} × ${height} pixels, ${Math.round(elapsed)} ms: network ${Math.round(ms.network)} ms${batch}, waiting ${Math.round(ms.waited)} ms, the rest is upload, decoding and drawing.${certain}`;
}

/** Count the areas again after a correction. The confidence stays that of the prediction. */
function onCorrection() {
  const counts = new Uint32Array(65536);
  for (const id of editor.ids) counts[id]++;
  for (const row of $("areas").tBodies[0].rows) {
    const pixels = counts[row.dataset.id];
    row.cells[1].textContent = percent.format(pixels / editor.ids.length);
    row.cells[2].textContent = pixels.toLocaleString("en");
    row.classList.toggle("absent", !pixels);
  }
  $("undo").disabled = !editor.history.length;
}

function setZoom(value) {
  zoom = Math.min(16, Math.max(1, value));
  $("stack").style.width = `${100 * zoom}%`;
}

const save = guarded(async () => {
  const query = new URLSearchParams({ model: current.model, width: editor.width, height: editor.height, name: current.file.name.slice(-255) });
  const response = await request(`/labelme?${query}`, { method: "POST", body: editor.ids, headers: { "Content-Type": "application/octet-stream" } });
  download(await response.blob(), `${current.stem}.json`);
  say(`Saved ${current.stem}.json. Put it next to the image to train from it.`);
});

const openCamera = guarded(async () => {
  const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1920 } } });
  $("video").srcObject = stream;
  $("shoot").onclose = () => stream.getTracks().forEach((track) => track.stop());
  $("shoot").showModal();
});

function takePicture() {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width: $("video").videoWidth, height: $("video").videoHeight });
  canvas.getContext("2d").drawImage($("video"), 0, 0);
  const time = new Date().toISOString().slice(0, 19).replace(/\D/g, "-");
  $("shoot").close();
  canvas.toBlob((blob) => segment(new File([blob], `camera-${time}.png`, { type: blob.type }), true), "image/png");
}

$("file").addEventListener("change", ({ target }) => segment(target.files[0]));
$("model").addEventListener("change", () => segment(current?.file, current?.isNew));
addEventListener("paste", ({ clipboardData }) => segment(clipboardData.files[0], true));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("dragenter", () => $("drop").classList.add("over"));
addEventListener("dragleave", (event) => event.relatedTarget ?? $("drop").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  segment(event.dataTransfer.files[0]);
});
$("opacity").addEventListener("input", ({ target }) => ($("labels").style.opacity = target.value / 100));
$("uncertain").addEventListener("change", ({ target }) => ($("doubt").hidden = !target.checked));
$("smaller").addEventListener("click", () => setZoom(zoom / 1.5));
$("larger").addEventListener("click", () => setZoom(zoom * 1.5));
$("fit").addEventListener("click", () => setZoom(1));
for (const choice of document.getElementsByName("tool")) {
  choice.addEventListener("change", () => {
    editor.setTool(choice.value);
    $("size-choice").hidden = choice.value !== "brush";
  });
}
$("size").addEventListener("input", ({ target }) => (editor.brushSize = Number(target.value)));
$("close").addEventListener("click", () => editor.closePolygon());
$("undo").addEventListener("click", () => editor.undo());
$("save").addEventListener("click", save);
$("save-image").addEventListener("click", () => download(current.file, current.file.name));
$("camera").hidden = !navigator.mediaDevices?.getUserMedia;
$("camera").addEventListener("click", openCamera);
$("take").addEventListener("click", takePicture);
$("cancel").addEventListener("click", () => $("shoot").close());
start();
