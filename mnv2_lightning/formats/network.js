// The operations of a program (program.py) on one image. Every value is a Float64Array, (C, H, W).
"use strict";

// Weights (rows, depth) times columns (depth, pixels), plus a bias for each row -> out, from `start`
// on. Blocks of 4 rows by 2 pixels: eight sums stay in registers.
function multiply(weights, bias, rows, depth, columns, pixels, out, start) {
  let row = 0;
  for (; row + 4 <= rows; row += 4) {
    const a = row * depth, b = a + depth, c = b + depth, d = c + depth;
    const biasA = bias[row], biasB = bias[row + 1], biasC = bias[row + 2], biasD = bias[row + 3];
    for (let pixel = 0; pixel < pixels; pixel += 2) {
      const next = pixel + 1 < pixels ? 1 : 0; // the last of an odd number is computed twice
      let a0 = biasA, b0 = biasB, c0 = biasC, d0 = biasD;
      let a1 = biasA, b1 = biasB, c1 = biasC, d1 = biasD;
      for (let k = 0, from = pixel; k < depth; k++, from += pixels) {
        const x0 = columns[from], x1 = columns[from + next];
        const wa = weights[a + k], wb = weights[b + k], wc = weights[c + k], wd = weights[d + k];
        a0 += wa * x0; b0 += wb * x0; c0 += wc * x0; d0 += wd * x0;
        a1 += wa * x1; b1 += wb * x1; c1 += wc * x1; d1 += wd * x1;
      }
      let to = start + row * pixels + pixel;
      out[to] = a0; out[to + next] = a1; to += pixels;
      out[to] = b0; out[to + next] = b1; to += pixels;
      out[to] = c0; out[to + next] = c1; to += pixels;
      out[to] = d0; out[to + next] = d1;
    }
  }
  for (; row < rows; row++) {
    for (let pixel = 0; pixel < pixels; pixel++) {
      let sum = bias[row];
      for (let k = 0; k < depth; k++) sum += weights[row * depth + k] * columns[k * pixels + pixel];
      out[start + row * pixels + pixel] = sum;
    }
  }
}

// One channel, in a plane with a border of zeros.
function copyIntoPlane(x, from, height, width, plane, planeWidth, top, left) {
  for (let row = 0; row < height; row++) {
    const to = (row + top) * planeWidth + left;
    for (let column = 0; column < width; column++) plane[to + column] = x[from++];
  }
}

function filter3x3(plane, planeWidth, weights, at, bias, rows, columns, strideY, strideX, out, to) {
  const a = weights[at], b = weights[at + 1], c = weights[at + 2];
  const d = weights[at + 3], e = weights[at + 4], f = weights[at + 5];
  const g = weights[at + 6], h = weights[at + 7], i = weights[at + 8];
  for (let row = 0; row < rows; row++) {
    let top = row * strideY * planeWidth;
    for (let column = 0; column < columns; column++, top += strideX) {
      const middle = top + planeWidth, bottom = middle + planeWidth;
      out[to++] = bias
        + a * plane[top] + b * plane[top + 1] + c * plane[top + 2]
        + d * plane[middle] + e * plane[middle + 1] + f * plane[middle + 2]
        + g * plane[bottom] + h * plane[bottom + 1] + i * plane[bottom + 2];
    }
  }
}

// The pixels that each tap of a kernel meets: a row of `patches` for each tap.
function copyPatches(plane, planeWidth, operation, rows, columns, patches, to) {
  const [, , kernelY, kernelX] = operation.weight.shape;
  const [strideY, strideX] = operation.stride, [dilationY, dilationX] = operation.dilation;
  for (let y = 0; y < kernelY; y++) {
    for (let x = 0; x < kernelX; x++) {
      for (let row = 0; row < rows; row++) {
        let from = (y * dilationY + row * strideY) * planeWidth + x * dilationX;
        for (let column = 0; column < columns; column++, from += strideX) patches[to++] = plane[from];
      }
    }
  }
  return to;
}

function convolution(operation, { x }, out, { weight, bias }) {
  const { from: [channels, height, width], shape: [outputs, rows, columns], groups } = operation;
  const [, depth, kernelY, kernelX] = operation.weight.shape; // depth: input channels of a group
  const [padY, padX] = operation.padding, pixels = rows * columns, taps = depth * kernelY * kernelX;
  const summands = bias ?? new Float64Array(outputs);
  const is = (pair, one) => pair.every((value) => value === one);
  if (kernelY * kernelX === 1 && groups === 1 && is(operation.stride, 1) && is(operation.padding, 0)) {
    return () => multiply(weight, summands, outputs, depth, x, pixels, out, 0);
  }
  const planeWidth = width + 2 * padX;
  const plane = new Float64Array((height + 2 * padY) * planeWidth);
  const copyChannel = (channel) =>
    copyIntoPlane(x, channel * height * width, height, width, plane, planeWidth, padY, padX);
  if (depth === 1 && kernelY === 3 && kernelX === 3 && is(operation.dilation, 1)) {
    const [strideY, strideX] = operation.stride, copies = outputs / groups;
    return () => {
      for (let output = 0; output < outputs; output++) {
        if (output % copies === 0) copyChannel(output / copies);
        filter3x3(
          plane, planeWidth, weight, output * 9, summands[output],
          rows, columns, strideY, strideX, out, output * pixels,
        );
      }
    };
  }
  const patches = new Float64Array(taps * pixels), size = outputs / groups;
  const part = (array, group, length) => array.subarray(group * length, (group + 1) * length);
  return () => {
    for (let group = 0; group < groups; group++) {
      for (let channel = group * depth, to = 0; channel < (group + 1) * depth; channel++) {
        copyChannel(channel);
        to = copyPatches(plane, planeWidth, operation, rows, columns, patches, to);
      }
      const kernels = part(weight, group, size * taps);
      multiply(kernels, part(summands, group, size), size, taps, patches, pixels, out, group * size * pixels);
    }
  };
}

function clamp(operation, { x }, out) {
  const low = operation.low ?? -Infinity, high = operation.high ?? Infinity;
  return () => {
    for (let i = 0; i < out.length; i++) {
      const value = x[i];
      out[i] = value < low ? low : value > high ? high : value;
    }
  };
}

function affine({ factor, summand }, { x }, out) {
  return () => { for (let i = 0; i < out.length; i++) out[i] = factor * x[i] + summand; };
}

function add(operation, { x, y }, out) {
  return () => { for (let i = 0; i < out.length; i++) out[i] = x[i] + y[i]; };
}

function mean(operation, { x }, out) {
  const size = x.length / out.length;
  return () => {
    for (let channel = 0; channel < out.length; channel++) {
      let sum = 0;
      for (let i = channel * size; i < (channel + 1) * size; i++) sum += x[i];
      out[channel] = sum / size;
    }
  };
}

function slice({ from, axis, start, shape }, { x }, out) {
  const product = (sizes) => sizes.reduce((a, b) => a * b, 1);
  const inner = product(from.slice(axis + 1)), length = shape[axis] * inner;
  return () => {
    for (let to = 0, at = start * inner; to < out.length; to += length, at += from[axis] * inner) {
      for (let i = 0; i < length; i++) out[to + i] = x[at + i];
    }
  };
}

function resize({ from: [channels, height, width], shape }, { x }, out, { rows, columns }) {
  const [, newHeight, newWidth] = shape, between = new Float64Array(height * newWidth);
  return () => {
    for (let channel = 0; channel < channels; channel++) {
      for (let i = 0, to = 0; i < height; i++) {
        for (let j = 0; j < newWidth; j++, to++) {
          let sum = 0;
          for (let k = 0; k < width; k++) {
            sum += columns[j * width + k] * x[(channel * height + i) * width + k];
          }
          between[to] = sum;
        }
      }
      for (let i = 0, to = channel * newHeight * newWidth; i < newHeight; i++) {
        for (let j = 0; j < newWidth; j++, to++) {
          let sum = 0;
          for (let k = 0; k < height; k++) sum += rows[i * height + k] * between[k * newWidth + j];
          out[to] = sum;
        }
      }
    }
  };
}

const OPERATIONS = { convolution, clamp, affine, add, mean, slice, resize };

// A function from an image, of `program.input`, to logits, whose array it uses again.
function makeNetwork(program) {
  const bytes = Uint8Array.from(atob(program.weights), (letter) => letter.charCodeAt(0));
  const weights = new Float32Array(bytes.buffer); // little-endian, as all browsers' machines are
  const size = (shape) => shape.reduce((a, b) => a * b, 1);
  const values = [new Float64Array(size(program.input))];
  const steps = program.operations.map((operation) => {
    const inputs = {}, constants = {};
    for (const name of ["x", "y"]) if (name in operation) inputs[name] = values[operation[name]];
    for (const [name, place] of Object.entries(operation)) {
      if (place?.offset === undefined) continue;
      constants[name] = Float64Array.from(weights.subarray(place.offset, place.offset + size(place.shape)));
    }
    values.push(new Float64Array(size(operation.shape)));
    return OPERATIONS[operation.type](operation, inputs, values.at(-1), constants);
  });
  return (image) => {
    values[0].set(image);
    for (const step of steps) step();
    return values[program.output];
  };
}
