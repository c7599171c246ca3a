// Label map over the image, and the tools that correct it.

const $ = (id) => document.getElementById(id);
const UNDO_STEPS = 50;

export class Editor {
  /** @param {() => void} onChange called after each correction. */
  constructor(onChange) {
    this.onChange = onChange;
    this.labels = $("labels").getContext("2d");
    this.scratch = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    this.tool = "look";
    this.classId = 0;
    this.brushSize = 20; // pixels of the image
    this.clear();
    const stack = $("stack");
    stack.addEventListener("pointerdown", (event) => this.onDown(event));
    stack.addEventListener("pointermove", (event) => this.onMove(event));
    stack.addEventListener("pointerup", () => (this.last = null));
    stack.addEventListener("pointercancel", () => (this.last = null));
    stack.addEventListener("pointerleave", () => $("brush").toggleAttribute("hidden", true));
    stack.addEventListener("dblclick", () => this.closePolygon());
    stack.addEventListener("keydown", (event) => this.onKey(event));
    stack.addEventListener("blur", () => $("cross").toggleAttribute("hidden", true));
  }

  clear() {
    this.points = []; // of the open polygon
    this.history = []; // patches before each correction
    this.last = null; // where the brush was
    this.cursor = null; // crosshair of the keyboard
  }

  /** Show the labels of a new image. `colors` has [red, green, blue] for each id. */
  open(ids, width, height, colors, background) {
    this.clear();
    Object.assign(this, { ids, width, height, colors, background });
    Object.assign(this.labels.canvas, { width, height });
    $("marks").setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.draw(0, 0, width, height);
    this.drawPolygon();
  }

  setTool(tool) {
    this.tool = tool;
    this.points = [];
    $("stack").dataset.tool = tool;
    $("brush").toggleAttribute("hidden", true);
    this.drawPolygon();
  }

  /** Color the ids of a box. */
  draw(left, top, width, height) {
    const colored = new ImageData(width, height);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const id = this.ids[(top + y) * this.width + left + x];
        const color = this.colors[id] ?? [255, 255, 255];
        colored.data.set([...color, id === this.background ? 0 : 255], 4 * (y * width + x));
      }
    }
    this.labels.putImageData(colored, left, top);
  }

  /** Set the pixels that `paint` covers to the chosen class. The box bounds them; `isNew` begins a step of undo. */
  fill(box, paint, isNew = true) {
    const left = Math.max(0, Math.floor(box[0])), top = Math.max(0, Math.floor(box[1]));
    const width = Math.min(this.width, Math.ceil(box[2])) - left, height = Math.min(this.height, Math.ceil(box[3])) - top;
    if (width <= 0 || height <= 0) return;
    Object.assign(this.scratch.canvas, { width, height }); // also clears it
    this.scratch.translate(-left, -top);
    paint(this.scratch);
    const covered = this.scratch.getImageData(0, 0, width, height).data;
    const before = new this.ids.constructor(width * height);
    for (let y = 0; y < height; y++) {
      const row = (top + y) * this.width + left;
      before.set(this.ids.subarray(row, row + width), y * width);
      for (let x = 0; x < width; x++) {
        if (covered[4 * (y * width + x) + 3] > 127) this.ids[row + x] = this.classId;
      }
    }
    if (isNew) this.history.push([]);
    this.history.at(-1).push({ left, top, width, height, before });
    if (this.history.length > UNDO_STEPS) this.history.shift();
    this.draw(left, top, width, height);
    this.onChange();
  }

  undo() {
    for (const { left, top, width, height, before } of (this.history.pop() ?? []).reverse()) {
      for (let y = 0; y < height; y++) this.ids.set(before.subarray(y * width, (y + 1) * width), (top + y) * this.width + left);
      this.draw(left, top, width, height);
    }
    this.onChange();
  }

  brush(from, to, isNew) {
    const radius = this.brushSize / 2 + 1;
    const box = [Math.min(from[0], to[0]) - radius, Math.min(from[1], to[1]) - radius, Math.max(from[0], to[0]) + radius, Math.max(from[1], to[1]) + radius];
    const paint = (context) => {
      Object.assign(context, { lineWidth: this.brushSize, lineCap: "round" });
      context.beginPath();
      context.moveTo(...from);
      context.lineTo(to[0] + 0.001, to[1]); // a line of no length is not drawn
      context.stroke();
    };
    this.fill(box, paint, isNew);
  }

  addPoint(point) {
    this.points.push(point);
    this.drawPolygon();
  }

  closePolygon() {
    const points = this.points;
    if (this.tool !== "polygon" || points.length < 3) return;
    this.points = [];
    const xs = points.map(([x]) => x), ys = points.map(([, y]) => y);
    this.fill([Math.min(...xs), Math.min(...ys), Math.max(...xs) + 1, Math.max(...ys) + 1], (context) => {
      context.beginPath();
      for (const point of points) context.lineTo(...point);
      context.closePath();
      context.fill();
    });
    this.drawPolygon();
  }

  drawPolygon() {
    for (const id of ["halo", "outline"]) $(id).setAttribute("points", this.points.map((point) => point.join()).join(" "));
    $("close").disabled = this.points.length < 3;
  }

  drawCursor() {
    const [x, y] = this.cursor, arm = 12 * this.pixelsPerUnit();
    $("cross").setAttribute("d", `M${x - arm} ${y}H${x + arm}M${x} ${y - arm}V${y + arm}`);
    $("cross").toggleAttribute("hidden", false);
  }

  /** Pixels of the image in one pixel of the page. */
  pixelsPerUnit() {
    return this.width / $("stack").getBoundingClientRect().width;
  }

  position(event) {
    const box = $("stack").getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * this.width, ((event.clientY - box.top) / box.height) * this.height];
  }

  onDown(event) {
    if (this.tool === "look" || event.button !== 0) return;
    const point = this.position(event);
    if (this.tool === "brush") {
      $("stack").setPointerCapture(event.pointerId);
      this.brush(point, point, true);
      this.last = point;
      return;
    }
    const reach = 10 * this.pixelsPerUnit();
    const first = this.points[0], previous = this.points.at(-1);
    if (this.points.length > 2 && Math.hypot(point[0] - first[0], point[1] - first[1]) < reach) this.closePolygon();
    else if (!previous || Math.hypot(point[0] - previous[0], point[1] - previous[1]) > reach / 5) this.addPoint(point);
  }

  onMove(event) {
    if (this.tool !== "brush") return;
    const point = this.position(event);
    const circle = $("brush");
    circle.toggleAttribute("hidden", false);
    for (const [key, value] of [["cx", point[0]], ["cy", point[1]], ["r", this.brushSize / 2]]) circle.setAttribute(key, value);
    if (this.last) {
      this.brush(this.last, point, false);
      this.last = point;
    }
  }

  onKey(event) {
    const step = event.shiftKey ? 10 : 1;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if ((event.ctrlKey || event.metaKey) && event.key === "z") this.undo();
    else if (event.ctrlKey || event.metaKey || event.altKey) return;
    else if (event.key in moves) {
      const [x, y] = this.cursor ?? [this.width / 2, this.height / 2];
      const [dx, dy] = moves[event.key];
      this.cursor = [Math.min(this.width, Math.max(0, x + dx)), Math.min(this.height, Math.max(0, y + dy))];
      this.drawCursor();
    } else if (event.key === " ") {
      this.cursor ??= [this.width / 2, this.height / 2];
      this.drawCursor();
      if (this.tool === "polygon") this.addPoint(this.cursor);
      if (this.tool === "brush") this.brush(this.cursor, this.cursor, true);
    } else if (event.key === "Enter") this.closePolygon();
    else if (event.key === "Backspace") {
      this.points.pop();
      this.drawPolygon();
    } else if (event.key === "Escape") {
      this.points = [];
      this.drawPolygon();
    } else return;
    event.preventDefault();
  }
}
