"use strict";
// Shows, for one question and one row, what became of each patch before a chosen layer.
const data = JSON.parse(document.getElementById("data").textContent);
const element = (id) => document.getElementById(id);
const [sampleChoice, rowChoice, slider, canvas] = ["sample", "row", "layer", "frames"].map(element);
const GAP = 10, CAPTION = 18, NARROW = 150, WIDE = 250; // pixels
const images = new Map(); // by number of the clip: promises of loaded pictures
let shown = null; // what is on the canvas: overlay, clip, pictures, owners, places of the frames
let chosen = -1; // number of the patch under the pointer or the cursor

function option(select, value, text) {
  const made = document.createElement("option");
  made.value = value;
  made.textContent = text;
  select.append(made);
}

function fillRows() {
  const before = rowChoice.selectedOptions[0]?.textContent;
  rowChoice.replaceChildren();
  data.overlays.forEach((overlay, number) => {
    if (overlay.sample === Number(sampleChoice.value)) option(rowChoice, number, overlay.label);
  });
  const same = [...rowChoice.options].find((each) => each.textContent === before);
  if (same) same.selected = true;
}

function ownersAt(overlay, patches, layer) {
  // Owner of a patch: the patch whose token it is part of; -1: it was dropped.
  const owners = Int32Array.from({ length: patches }, (_, patch) => patch);
  for (const change of overlay.changes) {
    if (change.layer < layer) {
      change.patches.forEach((patch, k) => { owners[patch] = change.owners[k]; });
    }
  }
  return owners;
}

function sizesOf(owners) {
  const sizes = new Int32Array(owners.length);
  for (const owner of owners) if (owner >= 0) sizes[owner] += 1;
  return sizes;
}

function plural(count, one, many = one + "s") {
  return `${count} ${count === 1 ? one : many}`;
}

function describeLayer({ overlay, owners, sizes }, layer) {
  let tokens = 0, alone = 0, carriers = 0, merged = 0, dropped = 0;
  for (const size of sizes) {
    if (size > 0) tokens += 1;
    if (size === 1) alone += 1;
    if (size > 1) { carriers += 1; merged += size; }
  }
  for (const owner of owners) if (owner < 0) dropped += 1;
  element("counts").textContent =
    `Layer ${layer} works on ${tokens} of ${plural(owners.length, "visual token")}: ` +
    `${alone} as they were, ${carriers} merged from ${merged}, ${dropped} dropped.`;
  slider.setAttribute("aria-valuetext", `layer ${layer}, ${plural(tokens, "visual token")}`);
  element("layer-number").textContent = `${layer} (0 to ${overlay.layers - 1})`;
  const lines = overlay.changes.filter((change) => change.layer < layer).map((change) => {
    const line = document.createElement("li");
    const when = change.layer < 0 ? "before layer 0" : `after layer ${change.layer}`;
    const note = change.note ? ` (${change.note})` : "";
    line.textContent = `${when}: ${change.reducer}${note}, ${plural(change.after, "token")} left`;
    return line;
  });
  if (!lines.length) {
    const line = document.createElement("li");
    line.textContent = "none so far";
    lines.push(line);
  }
  element("reductions").replaceChildren(...lines);
}

function placeName(patch) {
  const [frame, row, column] = shown.clip.patches[patch];
  return `frame ${frame}, row ${row}, column ${column}`;
}

function lastChange(patch, layer) {
  return shown.overlay.changes.filter(
    (change) => change.layer < layer && change.patches.includes(patch)).at(-1);
}

function describePatch() {
  const target = element("patch");
  if (!shown || chosen < 0 || chosen >= shown.owners.length) {
    target.textContent = "Point at a patch, or move over the frames with the arrow keys.";
    return;
  }
  const owner = shown.owners[chosen], where = placeName(chosen);
  const change = lastChange(chosen, Number(slider.value));
  const after = change ? ` by ${change.reducer} after layer ${change.layer}` : "";
  if (owner < 0) target.textContent = `${where}: dropped${after}.`;
  else if (owner !== chosen) target.textContent = `${where}: merged into ${placeName(owner)}${after}.`;
  else if (shown.sizes[chosen] > 1) {
    const others = [...shown.owners.keys()].filter((p) => p !== chosen && shown.owners[p] === chosen);
    const names = others.slice(0, 8).map(placeName).join("; ");
    const more = others.length > 8 ? `; and ${others.length - 8} more` : "";
    target.textContent = `${where}: carries ${plural(others.length, "other")}: ${names}${more}.`;
  } else target.textContent = `${where}: as it was.`;
}

function layOut() {
  // Puts the frames in rows that fit the page; returns the left upper corner and size of each.
  const width = Math.max(120, canvas.clientWidth);
  const count = shown.clip.frames.length;
  const most = Math.max(1, Math.min(count, Math.floor((width - GAP) / (NARROW + GAP))));
  const columns = Math.ceil(count / Math.ceil(count / most)); // rows of equal length where it goes
  const side = Math.min(WIDE, (width - GAP) / columns - GAP);
  let top = 0, high = 0;
  shown.places = shown.pictures.map((picture, number) => {
    if (number % columns === 0) { top += high; high = 0; }
    const tall = picture.naturalWidth ? side * picture.naturalHeight / picture.naturalWidth : side;
    high = Math.max(high, tall + CAPTION + GAP);
    return { left: GAP + (number % columns) * (side + GAP), top: top + CAPTION, width: side, height: tall };
  });
  return { width, height: top + high };
}

function rectangle(patch) {
  const [frame, row, column] = shown.clip.patches[patch];
  const { rows, columns } = shown.clip.frames[frame], place = shown.places[frame];
  const width = place.width / columns, height = place.height / rows;
  return { x: place.left + column * width, y: place.top + row * height, width, height };
}

function outline(brush, { x, y, width, height }, colour, thick) {
  brush.strokeStyle = colour;
  brush.lineWidth = thick;
  brush.strokeRect(x + thick / 2, y + thick / 2, width - thick, height - thick);
}

function drawPatch(brush, patch) {
  const owner = shown.owners[patch], box = rectangle(patch), { x, y, width, height } = box;
  if (owner < 0) { // a bar as well as a shade: neither needs colour vision
    brush.fillStyle = "rgba(20, 20, 20, .86)";
    brush.fillRect(x, y, width, height);
    brush.strokeStyle = "rgba(150, 150, 150, .9)";
    brush.lineWidth = 1;
    brush.beginPath();
    brush.moveTo(x, y + height);
    brush.lineTo(x + width, y);
    brush.stroke();
  } else if (owner !== patch) {
    brush.fillStyle = "rgba(213, 94, 0, .5)";
    brush.fillRect(x, y, width, height);
    brush.fillStyle = "#ffffff";
    brush.beginPath();
    brush.arc(x + width / 2, y + height / 2, Math.max(1.5, Math.min(width, height) / 8), 0, 7);
    brush.fill();
  } else if (shown.sizes[patch] > 1) outline(brush, box, "#0072b2", Math.max(2, Math.min(4, width / 8)));
}

function drawChosen(brush) {
  if (chosen < 0 || chosen >= shown.owners.length) return;
  const owner = shown.owners[chosen];
  if (owner >= 0) {
    const to = rectangle(owner);
    shown.owners.forEach((each, patch) => {
      if (each !== owner || patch === owner) return;
      const from = rectangle(patch);
      brush.strokeStyle = "#f0e442";
      brush.lineWidth = 1.5;
      brush.beginPath();
      brush.moveTo(from.x + from.width / 2, from.y + from.height / 2);
      brush.lineTo(to.x + to.width / 2, to.y + to.height / 2);
      brush.stroke();
      outline(brush, from, "#f0e442", 2);
    });
    if (shown.sizes[owner] > 1) outline(brush, to, "#f0e442", 3);
  }
  outline(brush, rectangle(chosen), "#000000", 4);
  outline(brush, rectangle(chosen), "#ffffff", 2);
}

function draw() {
  if (!shown) return;
  const { width, height } = layOut(), sharp = window.devicePixelRatio || 1;
  canvas.style.height = `${height}px`;
  canvas.width = Math.round(width * sharp);
  canvas.height = Math.round(height * sharp);
  const brush = canvas.getContext("2d");
  brush.scale(sharp, sharp);
  brush.font = "12px system-ui, sans-serif";
  const ink = getComputedStyle(document.body).color;
  shown.clip.frames.forEach((frame, number) => {
    const place = shown.places[number], picture = shown.pictures[number];
    brush.imageSmoothingEnabled = place.width < 2 * picture.naturalWidth;
    if (picture.naturalWidth) brush.drawImage(picture, place.left, place.top, place.width, place.height);
    brush.fillStyle = ink;
    brush.fillText(`frame ${number}, ${frame.seconds.toFixed(2)} s`, place.left, place.top - 5);
  });
  for (let patch = 0; patch < shown.owners.length; patch += 1) drawPatch(brush, patch);
  drawChosen(brush);
}

function showLayer() {
  const layer = Number(slider.value);
  shown.owners = ownersAt(shown.overlay, shown.clip.patches.length, layer);
  shown.sizes = sizesOf(shown.owners);
  describeLayer(shown, layer);
  describePatch();
  draw();
}

function loaded(clip) {
  if (!images.has(clip)) {
    images.set(clip, Promise.all(data.clips[clip].frames.map(async (frame) => {
      const picture = new Image();
      picture.src = frame.image;
      await picture.decode().catch(() => undefined); // a broken picture leaves its place empty
      return picture;
    })));
  }
  return images.get(clip);
}

async function showRow() {
  const overlay = data.overlays[Number(rowChoice.value)];
  const pictures = await loaded(overlay.clip);
  if (overlay !== data.overlays[Number(rowChoice.value)]) return; // chosen anew while it loaded
  shown = { overlay, clip: data.clips[overlay.clip], pictures };
  for (const name of ["question", "answer", "prediction"]) element(name).textContent = overlay[name];
  slider.max = overlay.layers - 1;
  chosen = Math.min(chosen, shown.clip.patches.length - 1);
  showLayer();
}

function patchAt(event) {
  const area = canvas.getBoundingClientRect();
  const x = event.clientX - area.left, y = event.clientY - area.top;
  return shown.clip.patches.findIndex((_, patch) => {
    const box = rectangle(patch);
    return x >= box.x && x < box.x + box.width && y >= box.y && y < box.y + box.height;
  });
}

function choose(patch) {
  if (patch === chosen) return;
  chosen = patch;
  describePatch();
  draw();
}

function moveCursor(event) {
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  const step = steps[event.key];
  if (!step || !shown) return;
  event.preventDefault();
  if (chosen < 0) return choose(0);
  const { patches, frames } = shown.clip;
  let [frame, row, column] = patches[chosen];
  row += step[0];
  column += step[1];
  // Over an edge there is the next or the previous frame.
  if (row < 0 || column < 0) frame -= 1;
  else if (row >= frames[frame].rows || column >= frames[frame].columns) frame += 1;
  if (frame < 0 || frame >= frames.length) return;
  row = (row + frames[frame].rows) % frames[frame].rows;
  column = (column + frames[frame].columns) % frames[frame].columns;
  const found = patches.findIndex((p) => p[0] === frame && p[1] === row && p[2] === column);
  if (found >= 0) choose(found);
}

data.samples.forEach((name, number) => option(sampleChoice, number, name));
sampleChoice.addEventListener("change", () => { fillRows(); showRow(); });
rowChoice.addEventListener("change", showRow);
slider.addEventListener("input", () => { if (shown) showLayer(); });
canvas.addEventListener("pointermove", (event) => { if (shown?.places) choose(patchAt(event)); });
canvas.addEventListener("pointerdown", (event) => { if (shown?.places) choose(patchAt(event)); });
canvas.addEventListener("keydown", moveCursor);
new ResizeObserver(draw).observe(canvas.parentElement);
fillRows();
showRow();
