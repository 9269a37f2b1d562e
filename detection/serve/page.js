"use strict";
const $ = id => document.getElementById(id);
const LONGEST = 1600, SHORTEST = 640;  // sides of the canvas, in pixels
const LEAST = 0.05;  // smallest score that the page requests, so that the slider needs no further request
let model = { classes: [] }, image = null, found = null, request = null, stream = null, name = "image";
let chosen = null;  // score of the slider; null: the thresholds of the model
const hidden = new Set();  // classes without a tick

fetch("model").then(answer => answer.json()).then(about => {
  model = about;
  const classes = about.classes.length, kind = `${about.kind}, ${classes} ${classes === 1 ? "class" : "classes"}`;
  $("model").textContent = `${about.model}: ${kind}.`;
  const { bytes, pixels } = about.limits, most = `${bytes / 1e6} MB and ${pixels / 1e6} megapixels`;
  $("formats").textContent = `JPEG, PNG, WebP, TIFF and other formats, up to ${most}.`;
  const scores = new Set(about.classes.map(one => one.score));
  $("score").value = Math.min(...scores);
  $("shown").textContent = scores.size > 1 ? "by class" : Number($("score").value).toFixed(2);
}).catch(() => fail("The server does not answer. Is it still running?"));

// Images: from a file, from the clipboard, dropped, or of the camera.
$("file").addEventListener("change", event => take(event.target));
$("photo").addEventListener("change", event => take(event.target));
function take(input) {
  if (input.files.length) detect(input.files[0]);
  input.value = "";  // the same file may come again
}
document.addEventListener("paste", event => {
  const file = [...event.clipboardData.files][0];
  if (file) detect(file);
});
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, event => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) detect(event.dataTransfer.files[0]);
  });
}
$("camera").addEventListener("click", async () => {
  if (stream) return shoot();
  if (!navigator.mediaDevices) return $("photo").click();  // only secure pages may show the camera; phones have their own
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1280 } } });
  } catch (error) {
    return fail(`The browser cannot use the camera (${error.name}). Choose an image instead.`);
  }
  $("video").srcObject = stream;
  await $("video").play();
  show("video");
  $("camera").textContent = "Take the photo";
  $("camera").classList.add("first");
  $("close").hidden = false;
});
$("close").addEventListener("click", () => { closeCamera(); show(image ? "canvas" : "empty"); });
function shoot() {
  const video = $("video"), still = document.createElement("canvas");
  [still.width, still.height] = [video.videoWidth, video.videoHeight];
  still.getContext("2d").drawImage(video, 0, 0);
  closeCamera();
  still.toBlob(blob => detect(new File([blob], "camera.jpg", { type: "image/jpeg" })), "image/jpeg", 0.92);
}
function closeCamera() {
  for (const track of stream ? stream.getTracks() : []) track.stop();
  stream = $("video").srcObject = null;
  $("camera").textContent = "Use the camera";
  $("camera").classList.remove("first");
  $("close").hidden = true;
}

// Send an image, and show the answer.
async function detect(file) {
  if (stream) closeCamera();
  if (request) request.abort();
  const mine = request = new AbortController(), begin = performance.now();
  name = file.name.replace(/\.[^.]*$/, "") || "image";
  $("error").hidden = true;
  $("status").textContent = `Detecting the objects in ${file.name}.`;
  $("drop").classList.add("busy");
  try {
    const answer = await fetch(`predict?score=${LEAST}`, { method: "POST", body: file, signal: mine.signal });
    const content = await answer.json();
    if (!answer.ok) throw new Error(sentence(content.error));
    const picture = await createImageBitmap(file).catch(() => null);
    if (request !== mine) return;
    [found, image] = [content, picture];
    for (const one of found.detections) one.drawn = null;
    const times = `${seconds(content.milliseconds.model)} of the detector, ${seconds(performance.now() - begin)} in all`;
    const warning = content.warning ? ` ${sentence(content.warning)}` : "";
    const missing = picture ? "" : " The browser cannot show this format, but the objects are right.";
    $("status").textContent = `${file.name}: ${content.width} x ${content.height} pixels, ${times}.${warning}${missing}`;
    listClasses();
    $("panel").hidden = false;
    document.querySelector("main").classList.add("found");
    show("canvas");
    draw();
  } catch (error) {
    if (error.name === "AbortError" || request !== mine) return;
    $("status").textContent = "";
    fail(error instanceof TypeError ? "The server does not answer. Is it still running?" : error.message);
  } finally {
    if (request === mine) $("drop").classList.remove("busy");
  }
}
const seconds = time => time < 1000 ? `${Math.round(time)} ms` : `${(time / 1000).toFixed(1)} s`;
const sentence = text => text.charAt(0).toUpperCase() + text.slice(1) + (/[.?!]$/.test(text) ? "" : ".");
function fail(message) {
  $("error").textContent = message;
  $("error").hidden = false;
}
function show(id) {
  for (const one of ["canvas", "video", "empty"]) $(one).hidden = one !== id;
}

// Which objects are shown: by score and class.
const limit = label => chosen === null ? (model.classes[label] || { score: 0.5 }).score : chosen;
const passes = one => one.score >= limit(one.label);
const visible = () => found.detections.filter(one => passes(one) && !hidden.has(one.label));
const colour = label => (model.classes[label] || { color: "#6ea3f5" }).color;
$("score").addEventListener("input", event => {
  chosen = Number(event.target.value);
  $("shown").textContent = chosen.toFixed(2);
  listClasses();
  draw();
});
addEventListener("resize", draw);
for (const id of ["boxes", "masks", "names"]) $(id).addEventListener("change", draw);
$("all").addEventListener("click", () => { hidden.clear(); listClasses(); draw(); });
$("none").addEventListener("click", () => { model.classes.forEach((_, label) => hidden.add(label)); listClasses(); draw(); });
function listClasses() {
  const counts = new Map();
  for (const one of found.detections) counts.set(one.label, (counts.get(one.label) || 0) + passes(one));
  const labels = [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a) || a - b);
  $("classes").replaceChildren(...labels.map(label => {
    const line = document.createElement("label"), box = document.createElement("input");
    box.type = "checkbox";
    box.checked = !hidden.has(label);
    box.addEventListener("change", () => { box.checked ? hidden.delete(label) : hidden.add(label); draw(); });
    line.append(box, swatch(label), text("span", nameOf(label), "name"), text("span", counts.get(label), "count"));
    return line;
  }));
}
const nameOf = label => model.classes[label] ? model.classes[label].name : String(label);
function text(tag, content, kind) {
  const made = document.createElement(tag);
  made.textContent = content;
  if (kind) made.className = kind;
  return made;
}
function swatch(label) {
  const made = text("span", "", "swatch");
  made.style.backgroundColor = colour(label);
  return made;
}

// The image with its objects, the worst first, so that the best ones are on top.
function draw() {
  if (!found) return;
  const canvas = $("canvas"), ctx = canvas.getContext("2d"), longest = Math.max(found.width, found.height);
  const scale = Math.min(Math.max(1, SHORTEST / longest), LONGEST / longest);
  [canvas.width, canvas.height] = [Math.max(1, Math.round(found.width * scale)), Math.max(1, Math.round(found.height * scale))];
  if (image) ctx.drawImage(image, 0, 0, canvas.width, canvas.height);
  const zoom = canvas.width / (canvas.clientWidth || canvas.width);  // so that text has one size in every window
  const objects = visible(), line = 2 * zoom;
  for (const one of [...objects].reverse()) {
    if ($("masks").checked && one.mask) {
      const mask = maskOf(one, scale);
      ctx.drawImage(mask.canvas, mask.left, mask.top);
    }
    for (const [x, y, score] of one.keypoints || []) if (score > 0) dot(ctx, x * scale, y * scale, 1.5 * line, one.label);
  }
  for (const one of [...objects].reverse()) {
    const [x0, y0, x1, y1] = one.box.map(side => side * scale);
    ctx.strokeStyle = colour(one.label);
    ctx.lineWidth = line;
    if ($("boxes").checked) ctx.strokeRect(x0, y0, x1 - x0, y1 - y0);
    if ($("names").checked) caption(ctx, `${one.name} ${one.score.toFixed(2)}`, x0, y0, line, one.label);
  }
  list(objects);
}
function dot(ctx, x, y, radius, label) {
  ctx.beginPath();
  ctx.arc(x, y, radius, 0, 2 * Math.PI);
  ctx.fillStyle = colour(label);
  ctx.fill();
}
function caption(ctx, words, x, y, line, label) {
  const size = 6.5 * line;
  ctx.font = `600 ${size}px system-ui, sans-serif`;
  const width = ctx.measureText(words).width + 0.6 * size, left = Math.max(0, Math.min(x, ctx.canvas.width - width));
  const top = y >= 1.35 * size ? y - 1.35 * size : y;
  ctx.fillStyle = colour(label);
  ctx.fillRect(left - line / 2, top, width, 1.35 * size);
  ctx.fillStyle = isLight(colour(label)) ? "#10151c" : "#ffffff";
  ctx.fillText(words, left + 0.3 * size - line / 2, top + size);
}
function isLight(hex) {
  const [r, g, b] = [1, 3, 5].map(place => parseInt(hex.slice(place, place + 2), 16));
  return 0.299 * r + 0.587 * g + 0.114 * b > 140;
}
function list(objects) {
  const number = objects.length, said = `${number} ${number === 1 ? "object" : "objects"}`;
  $("count").textContent = said;
  const names = [...new Set(objects.map(one => one.name))].slice(0, 5).join(", ");
  $("canvas").setAttribute("aria-label", `The image with ${said}${names ? `: ${names}` : ""}`);
  $("objects").replaceChildren(...objects.map(one => {
    const row = document.createElement("tr"), first = text("td", ""), [x0, y0, x1, y1] = one.box;
    first.append(swatch(one.label), one.name);
    row.append(first, text("td", one.score.toFixed(2), "n"), text("td", `${Math.round(x1 - x0)} x ${Math.round(y1 - y0)}`, "n"));
    return row;
  }));
}

// COCO's RLE: lengths of runs of zeros and ones, down the columns, five bits in a character; from the third on, each is
// the difference from the length before the last.
function runs(packed) {
  const lengths = [];
  for (let i = 0; i < packed.length;) {
    let value = 0, shift = 0, bits;
    do {
      bits = packed.charCodeAt(i++) - 48;
      value |= (bits & 31) << shift;
      shift += 5;
    } while (bits & 32);
    if (bits & 16) value |= -1 << shift;
    if (lengths.length > 2) value += lengths[lengths.length - 2];
    lengths.push(value);
  }
  return lengths;
}
function maskOf(one, scale) {
  if (one.drawn) return one.drawn;
  const [height, width] = one.mask.size, pixels = new Uint8Array(height * width);
  runs(one.mask.counts).reduce(([place, value], length) => {
    if (value) pixels.fill(1, place, place + length);
    return [place + length, 1 - value];
  }, [0, 0]);
  const [x0, y0, x1, y1] = one.box.map(side => side * scale);
  const left = Math.max(0, Math.floor(x0) - 2), top = Math.max(0, Math.floor(y0) - 2);
  const w = Math.ceil(x1) + 2 - left, h = Math.ceil(y1) + 2 - top;
  const data = new ImageData(w, h), [r, g, b] = [1, 3, 5].map(place => parseInt(colour(one.label).slice(place, place + 2), 16));
  for (let y = 0; y < h; y++) {
    const row = Math.min(height - 1, Math.floor((top + y + 0.5) / scale));
    for (let x = 0; x < w; x++) {
      const column = Math.min(width - 1, Math.floor((left + x + 0.5) / scale));
      if (pixels[column * height + row]) data.data.set([r, g, b, 110], 4 * (y * w + x));
    }
  }
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [w, h];
  canvas.getContext("2d").putImageData(data, 0, 0);
  return one.drawn = { canvas, left, top };
}

// Downloads: the objects that are shown.
$("json").addEventListener("click", () => {
  const detections = visible().map(({ drawn, ...one }) => one);
  const content = JSON.stringify({ ...found, detections }, null, 1);
  save(new Blob([content], { type: "application/json" }), ".json");
});
$("png").addEventListener("click", () => $("canvas").toBlob(blob => save(blob, ".png")));
function save(blob, suffix) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name + suffix;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
