"use strict";
const content = JSON.parse(document.getElementById("content").textContent);
const { images, classes, colors, findings, layers, ranked } = content;
const $ = (id) => document.getElementById(id);
const PAGE = 60; // cards that are added at a time
let shown = []; // numbers of the images that pass the filters, in order
let rendered = 0; // how many of them have a card
let position = -1; // of the selected image in shown
let layer = layers[0];
let marks = {}; // number -> keep | fix
const storageKey = "segzoo-" + content.id;
try {
  marks = JSON.parse(localStorage.getItem(storageKey)) || {};
} catch {} // storage is off: marks last until the page is closed

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const percent = (fraction) => (100 * fraction).toFixed(fraction < 0.1 ? 2 : 1) + " %";
const blobClasses = (image) => {
  const chosen = $("class").value;
  return image.classes.filter(([id]) => (chosen === "" ? id !== content.background : id === Number(chosen)));
};
const largest = (image) => Math.max(0, ...blobClasses(image).map(([, , , area]) => area));
const smallest = (image) => Math.min(...blobClasses(image).map(([, , , , area]) => area)); // Infinity without blobs
const difference = (a, b) => (a === b ? 0 : a - b); // of infinities as well
const ORDERS = {
  score: (a, b) => b.score - a.score,
  largest: (a, b) => largest(b) - largest(a),
  smallest: (a, b) => difference(smallest(a), smallest(b)),
  ignored: (a, b) => b.ignored - a.ignored,
  findings: (a, b) => b.findings.length - a.findings.length,
};

function passes(image, number) {
  const [split, id, finding] = [$("split").value, $("class").value, $("finding").value];
  if (split !== "" && image.split !== split) return false;
  if (id !== "" && !image.classes.some(([own]) => own === Number(id))) return false;
  if (finding === "any" && !image.findings.length) return false;
  if (finding.startsWith("kind:") && !image.findings.some((f) => "kind:" + findings[f].kind === finding)) return false;
  const marked = ranked ? $("marked").selectedIndex : 0;
  return marked === 0 || (marks[number] || "unmarked") === $("marked").value;
}

function update() {
  shown = images.map((_, number) => number).filter((number) => passes(images[number], number));
  const order = ORDERS[$("sort").value];
  if (order) shown.sort((a, b) => order(images[a], images[b]) || a - b);
  $("count").textContent = `${shown.length} of ${images.length} images`;
  $("grid").replaceChildren();
  rendered = 0;
  position = -1;
  render(PAGE);
}

function render(count) {
  for (; rendered < Math.min(count, shown.length); rendered++) $("grid").append(card(rendered));
}

function imageStack(number, large) {
  const image = images[number];
  const stack = element("span", { className: "stack" });
  if (!image.size) {
    stack.append(element("span", { className: "warn", textContent: "cannot be read" }));
    return stack;
  }
  const file = `${content.folder}/${String(image.number).padStart(6, "0")}`;
  const loading = large ? "eager" : "lazy";
  const [width, height] = image.size;
  stack.style.setProperty("--ratio", width / height);
  stack.append(element("img", { loading, src: file + ".jpg", alt: "" }));
  stack.append(element("img", { loading, src: `${file}-${layer}.png`, alt: "", className: "layer" }));
  if (image.regions && image.regions.length) stack.append(boxes(image));
  return stack;
}

function boxes(image) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${image.size[0]} ${image.size[1]}`);
  const margin = Math.max(...image.size) / 100;
  for (const region of image.regions) {
    const [left, top, width, height] = region.box;
    for (const name of ["halo", "line"]) {
      const box = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      const values = { x: left - margin, y: top - margin, width: width + 2 * margin, height: height + 2 * margin, class: name };
      for (const [key, value] of Object.entries(values)) box.setAttribute(key, value);
      svg.append(box);
    }
  }
  return svg;
}

function facts(image) {
  const parts = [image.split];
  if (ranked) parts.push("score " + image.score.toFixed(3));
  const blobs = blobClasses(image).reduce((sum, [, , count]) => sum + count, 0);
  if (blobs === 1) parts.push(`1 blob of ${largest(image)} pixels`);
  if (blobs > 1) parts.push(`${blobs} blobs of ${smallest(image)} to ${largest(image)} pixels`);
  if (image.ignored) parts.push(percent(image.ignored) + " ignored");
  return element("span", { className: "facts", textContent: parts.join(" · ") });
}

function regionText(region) {
  return `labeled ${classes[region.label]}, predicted ${classes[region.prediction]}`;
}

function card(place) {
  const number = shown[place];
  const image = images[number];
  const open = element("button", { type: "button", className: "open" }, imageStack(number, false));
  open.append(element("span", { className: "name", textContent: image.name }), facts(image));
  if (ranked && image.regions.length) open.append(element("span", { className: "facts", textContent: regionText(image.regions[0]) }));
  const kinds = [...new Set(image.findings.map((f) => findings[f].kind.replaceAll("_", " ")))];
  if (kinds.length) open.append(element("span", { className: "facts warn", textContent: kinds.join(", ") }));
  open.addEventListener("click", () => show(place));
  open.addEventListener("focus", () => (position = place));
  return element("article", { className: "card" }, open, ...(ranked ? [markButtons(number)] : []));
}

function markButtons(number) {
  const buttons = ["keep", "fix"].map((mark) => {
    const button = element("button", { type: "button", textContent: mark });
    button.addEventListener("click", () => setMark(number, mark));
    return button;
  });
  const group = element("div", { className: "marks" }, ...buttons);
  group.dataset.number = number;
  paintMarks(group);
  return group;
}

function paintMarks(group) {
  for (const button of group.children) button.setAttribute("aria-pressed", marks[group.dataset.number] === button.textContent);
}

function setMark(number, mark) {
  if (marks[number] === mark) delete marks[number];
  else marks[number] = mark;
  try {
    localStorage.setItem(storageKey, JSON.stringify(marks));
  } catch {}
  for (const group of document.querySelectorAll(`.marks[data-number="${number}"]`)) paintMarks(group);
}

function show(place) {
  if (!(place >= 0 && place < shown.length)) return;
  position = place;
  const number = shown[place];
  const image = images[number];
  $("position").textContent = `${place + 1} of ${shown.length}`;
  const items = image.classes.map(([id, fraction, count]) => `${classes[id]}: ${percent(fraction)}, ${count} ${count === 1 ? "blob" : "blobs"}`);
  $("view").replaceChildren(
    imageStack(number, true),
    ...(ranked ? [markButtons(number)] : []),
    element("span", { className: "name", textContent: image.name }),
    facts(image),
    ...(image.error ? [element("p", { className: "warn", textContent: image.error })] : []),
    ...image.findings.map((f) => element("p", { className: "warn", textContent: findings[f].text })),
    element("ul", {}, ...(image.regions || []).map((region) => element("li", { textContent: `${regionText(region)}, score ${region.score.toFixed(3)}` }))),
    element("p", { className: "muted", textContent: items.join(" · ") }),
  );
  if (!$("viewer").open) $("viewer").showModal();
  $("next").focus();
}

function move(step) {
  const place = position < 0 ? 0 : Math.min(shown.length - 1, Math.max(0, position + step));
  if ($("viewer").open) show(place);
  else focusCard(place);
}

function focusCard(place) {
  render(place + 1);
  const target = $("grid").children[place];
  if (target) target.querySelector(".open").focus();
}

function setFade(value) {
  opacity = Math.min(100, Math.max(0, value));
  for (const slider of document.querySelectorAll(".fade")) slider.value = opacity;
  document.documentElement.style.setProperty("--fade", opacity / 100);
}

function setLayer(name) {
  layer = name;
  for (const choice of document.querySelectorAll(".choice")) choice.value = name;
  for (const image of document.querySelectorAll("img.layer")) image.src = image.src.replace(/-[^-]*\.png$/, `-${name}.png`);
}

let opacity = 50; // percent
let opacityBefore = 50; // what the key o restores
const KEYS = {
  ArrowLeft: () => move(-1),
  ArrowRight: () => move(1),
  "-": () => setFade(opacity - 10),
  "+": () => setFade(opacity + 10),
  "=": () => setFade(opacity + 10),
  o: () => {
    if (opacity) opacityBefore = opacity;
    setFade(opacity ? 0 : opacityBefore);
  },
  l: () => layers.length > 1 && setLayer(layers[(layers.indexOf(layer) + 1) % layers.length]),
  k: () => ranked && position >= 0 && setMark(shown[position], "keep"),
  f: () => ranked && position >= 0 && setMark(shown[position], "fix"),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.matches("select")) return;
  if (event.target.matches("input") && event.key.startsWith("Arrow")) return;
  const action = KEYS[event.key];
  if (action) {
    event.preventDefault();
    action();
  }
});

function csv() {
  const quote = (value) => `"${String(value).replaceAll('"', '""')}"`;
  const lines = Object.entries(marks).map(([number, mark]) => [images[number].split, images[number].name, mark, images[number].score]);
  return [["split", "name", "mark", "score"], ...lines].map((line) => line.map(quote).join(",") + "\r\n").join("");
}

function saveMarks() {
  const url = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  element("a", { href: url, download: "marks.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

function fill(id, options) {
  $(id).append(...options.map(([value, textContent]) => element("option", { value, textContent })));
}

function legendEntry(name, color) {
  const swatch = element("i");
  swatch.style.background = color;
  return element("li", {}, swatch, name);
}

const splits = [...new Set(images.map((image) => image.split))];
fill("split", splits.map((name) => [name, name]));
$("split").parentElement.hidden = splits.length < 2;
fill("class", classes.map((name, id) => [id, name]));
if (findings.length) {
  const kinds = [...new Set(findings.map((finding) => finding.kind))];
  fill("finding", [["any", "any"], ...kinds.map((kind) => ["kind:" + kind, kind.replaceAll("_", " ")])]);
} else $("finding").parentElement.hidden = true;
classes.forEach((name, id) => id !== content.background && $("legend").append(legendEntry(name, colors[id])));
if (images.some((image) => image.ignored)) $("legend").append(legendEntry("ignored", content.ignoredColor));
for (const id of ["split", "class", "finding", "marked", "sort"]) if ($(id)) $(id).addEventListener("change", update);
$("controls").addEventListener("submit", (event) => event.preventDefault());
for (const slider of document.querySelectorAll(".fade")) slider.addEventListener("input", () => setFade(Number(slider.value)));
for (const choice of document.querySelectorAll(".choice")) choice.addEventListener("change", () => setLayer(choice.value));
if (ranked) $("save").addEventListener("click", saveMarks);
$("previous").addEventListener("click", () => move(-1));
$("next").addEventListener("click", () => move(1));
$("close").addEventListener("click", () => $("viewer").close());
$("viewer").addEventListener("close", () => focusCard(position));
new IntersectionObserver((entries) => entries[0].isIntersecting && render(rendered + PAGE), { rootMargin: "600px" }).observe($("end"));
update();
