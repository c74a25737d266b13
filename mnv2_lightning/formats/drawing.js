// The page: what is drawn goes through the classifier, and its answer into the bars.
"use strict";

const model = JSON.parse(document.getElementById("model").textContent);
const classify = makeClassifier(model);
const [pad, seenCanvas, answer, latency, bars, hint, status] =
  ["pad", "seen", "answer", "latency", "bars", "hint", "status"].map((id) => document.getElementById(id));
const PEN = 0.07; // of the side: a digit of two thirds of the side has strokes as thick as MNIST's
const SLOW = 50; // ms: a slower network answers at the end of a stroke
const pen = pad.getContext("2d", { willReadFrequently: true });

if (model.classes.every((name) => name.length === 1)) bars.className = "short";
const rows = model.classes.map((name) => {
  const row = document.createElement("li"), label = document.createElement("span");
  label.textContent = name;
  row.append(label, document.createElement("i"), document.createElement("b"));
  bars.append(row);
  return row;
});

function clear() {
  pen.fillStyle = "#000";
  pen.fillRect(0, 0, pad.width, pad.height);
  update();
}

// Grey pixels, light on dark: all three channels are equal.
function picture() {
  const { data } = pen.getImageData(0, 0, pad.width, pad.height);
  const grey = new Uint8Array(data.length / 4);
  for (let i = 0; i < grey.length; i++) grey[i] = data[4 * i];
  return grey;
}

function softmax(logits) {
  const largest = Math.max(...logits), powers = Array.from(logits, (value) => Math.exp(value - largest));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((value) => value / sum);
}

let milliseconds = 0;

function update() {
  const pixels = picture(), isBlank = !pixels.some((value) => value > 0), start = performance.now();
  const { seen, logits } = classify(pixels, pad.height, pad.width);
  milliseconds = performance.now() - start;
  drawGrey(seenCanvas, seen);
  const shares = isBlank ? logits.map(() => 0) : softmax(logits);
  const best = shares.indexOf(Math.max(...shares));
  rows.forEach((row, i) => {
    row.className = !isBlank && i === best ? "best" : "";
    row.children[1].style.setProperty("--share", shares[i]);
    row.children[2].textContent = isBlank ? "" : percent(shares[i]);
  });
  hint.hidden = !isBlank;
  answer.textContent = isBlank ? "–" : model.classes[best];
  answer.className = isBlank ? "none" : model.classes[best].length > 2 ? "word" : "";
  const time = `Computed in ${milliseconds.toFixed(1)} ms`;
  latency.textContent = isBlank ? "\u00a0" : time; // one line high in any case
  return isBlank ? "Nothing is drawn" : `${model.classes[best]}, ${percent(shares[best])}`;
}

function percent(share) {
  return `${(100 * share).toFixed(0)} %`;
}

function announce() {
  status.textContent = update();
}

// (28, 28) from 0 to 255.
function drawGrey(canvas, values) {
  const image = new ImageData(28, 28);
  values.forEach((value, i) => image.data.set([value, value, value, 255], 4 * i));
  canvas.getContext("2d").putImageData(image, 0, 0);
}

let last = null, isWaiting = false;

function position(event) {
  const box = pad.getBoundingClientRect(), scale = pad.width / box.width;
  return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
}

function drawTo([x, y]) {
  pen.strokeStyle = "#fff";
  pen.lineWidth = PEN * pad.width;
  pen.lineCap = pen.lineJoin = "round";
  pen.beginPath();
  pen.moveTo(...last);
  pen.lineTo(x + 0.01, y); // a line of no length would leave no dot
  pen.stroke();
  last = [x, y];
}

pad.addEventListener("pointerdown", (event) => {
  if (!event.isPrimary || event.button !== 0) return;
  pad.setPointerCapture(event.pointerId);
  last = position(event);
  drawTo(last);
  updateSoon();
});

pad.addEventListener("pointermove", (event) => {
  if (last === null || !event.isPrimary) return;
  const events = event.getCoalescedEvents?.() ?? [];
  for (const one of events.length ? events : [event]) drawTo(position(one));
  updateSoon();
});

for (const name of ["pointerup", "pointercancel"]) {
  pad.addEventListener(name, (event) => {
    if (last === null || !event.isPrimary) return;
    last = null;
    announce();
  });
}

// Once for each frame.
function updateSoon() {
  hint.hidden = true;
  if (isWaiting || milliseconds > SLOW) return;
  isWaiting = true;
  requestAnimationFrame(() => { isWaiting = false; update(); });
}

document.getElementById("clear").addEventListener("click", () => { clear(); announce(); });

const examples = Uint8Array.from(atob(model.examples), (letter) => letter.charCodeAt(0));
model.labels.forEach((label, i) => {
  const button = document.createElement("button"), canvas = document.createElement("canvas");
  button.type = "button";
  button.title = model.classes[label];
  button.setAttribute("aria-label", `Example: ${model.classes[label]}`);
  canvas.width = canvas.height = 28;
  drawGrey(canvas, examples.subarray(i * 784, (i + 1) * 784));
  button.append(canvas);
  button.addEventListener("click", () => {
    pen.imageSmoothingEnabled = false;
    pen.drawImage(canvas, 0, 0, pad.width, pad.height);
    announce();
  });
  document.getElementById("examples").append(button);
});

clear();
update(); // a second time, so that the first stroke does not wait for code to be compiled
