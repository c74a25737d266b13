// What the network sees of a grey picture: images/preparation.py, in the same steps.
"use strict";

const SIDE = 28, BOX = 20; // px: of the image, and the longest side of the digit in it
const FLOOR = Math.fround(0.1); // of the darkest ink; what is fainter is paper
const CENTER = 14.5; // px from the edge: where MNIST has the digit's center of mass

// From 0 to 1, 0 for paper. Rounded to float32 where torch does, so that the same pixels are paper.
function findInk(picture, height, width) {
  const round = Math.fround, edges = [0, 0, 0, 0];
  for (let x = 0; x < width; x++) {
    edges[0] += picture[x];
    edges[1] += picture[(height - 1) * width + x];
  }
  for (let y = 0; y < height; y++) {
    edges[2] += picture[y * width];
    edges[3] += picture[y * width + width - 1];
  }
  const means = edges.map((sum, edge) => round(sum / (edge < 2 ? width : height)));
  const border = round(means.reduce((sum, edge) => round(sum + edge)) / 4);
  let darkest = 255, lightest = 0;
  for (let i = 0; i < height * width; i++) {
    if (picture[i] < darkest) darkest = picture[i];
    if (picture[i] > lightest) lightest = picture[i];
  }
  const isDarkOnLight = round(border - darkest) > round(lightest - border);
  const paper = isDarkOnLight ? Math.max(...means) : Math.min(...means); // the edge with least ink
  const strongest = Math.max(1, round(isDarkOnLight ? paper - darkest : lightest - paper));
  const ink = new Float32Array(height * width);
  for (let i = 0; i < ink.length; i++) {
    const value = round(round(isDarkOnLight ? paper - picture[i] : picture[i] - paper) / strongest);
    ink[i] = value > FLOOR ? value : 0;
  }
  return ink;
}

// First position with ink, the number up to the last, and the center of mass.
function extent(profile) {
  let first = profile.length, last = 0, mass = 0, moment = 0;
  for (let i = 0; i < profile.length; i++) {
    if (profile[i] > 0) { first = Math.min(first, i); last = i + 1; }
    mass += profile[i];
    moment += profile[i] * (i + 0.5);
  }
  return { first, length: Math.max(last - first, 0), center: moment / Math.max(mass, 1e-6) };
}

// Where pixel 0 of the result begins in the picture.
function origin({ first, length, center }, scale) {
  const wanted = Math.max(Math.floor(CENTER - (center - first) / scale + 0.501), 0);
  return first - Math.min(wanted, Math.floor(SIDE - length / scale + 1e-3)) * scale;
}

// To (28, 28), from (top, left) on: a px of the result averages the `scale` px of the picture that it
// covers, at least 1 px wide: enlarging is bilinear.
function toSide(picture, height, width, top, left, scale) {
  const down = overlaps(top, height, scale), across = overlaps(left, width, scale);
  const result = new Float64Array(SIDE * SIDE);
  for (let i = 0; i < SIDE; i++) {
    for (let y = down[i].begin; y < down[i].end; y++) {
      for (let j = 0; j < SIDE; j++) {
        const { begin, end, weights } = across[j];
        let sum = 0;
        for (let x = begin; x < end; x++) sum += weights[x - begin] * picture[y * width + x];
        result[i * SIDE + j] += down[i].weights[y - down[i].begin] * sum;
      }
    }
  }
  return result;
}

// The pixels of the picture in each pixel of the result, and their weights.
function overlaps(start, length, scale) {
  return Array.from({ length: SIDE }, (_, pixel) => {
    const middle = start + (pixel + 0.5) * scale, reach = Math.max(scale, 1);
    const from = middle - reach / 2, to = middle + reach / 2;
    const begin = Math.max(Math.floor(from), 0), end = Math.min(Math.ceil(to), length);
    const weights = [];
    for (let x = begin; x < end; x++) {
      weights.push(Math.max(0, Math.min(to, x + 1) - Math.max(from, x)) / reach);
    }
    return { begin, end, weights };
  });
}

// (height, width) from 0 to 255 -> (28, 28) from 0 to 255. `form`: "mnist" or "plain".
function prepare(picture, height, width, form) {
  if (form === "plain") {
    const scale = Math.max(height, width) / SIDE;
    return toSide(picture, height, width, 0, 0, scale);
  }
  const ink = findInk(picture, height, width);
  const rows = new Float64Array(height), columns = new Float64Array(width);
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      rows[y] += ink[i];
      columns[x] += ink[i];
    }
  }
  const vertical = extent(rows), horizontal = extent(columns);
  const scale = Math.max(vertical.length, horizontal.length, 1) / BOX;
  const top = origin(vertical, scale), left = origin(horizontal, scale);
  const digit = toSide(ink, height, width, top, left, scale);
  const brightest = Math.max(1e-6, ...digit);
  const enlarged = Math.min(Math.max(1 / scale - 1, 0), 1); // is blurred: give back its contrast
  return digit.map((value) => {
    const share = value / brightest;
    return 255 * Math.min(Math.max(share + enlarged * (share - 0.4), 0), 1);
  });
}

// A function from a picture to logits and what the network saw. `model`: page.py writes it.
function makeClassifier(model) {
  const network = makeNetwork(model.program);
  return (picture, height, width) => {
    const seen = prepare(picture, height, width, model.prepare);
    return { seen, logits: network(seen.map((value) => value / 255)) };
  };
}
