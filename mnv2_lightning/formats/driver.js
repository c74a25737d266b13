// For node, after the page's script: pictures.bin, uint8 -> results.bin, float32: the logits of each
// picture, what the network saw, and the milliseconds that it took.
const fs = require("fs");

const [height, width] = process.argv.slice(2).map(Number);
const classify = makeClassifier(JSON.parse(fs.readFileSync("model.json", "utf8")));
const pictures = fs.readFileSync("pictures.bin"), size = height * width;
const results = fs.openSync("results.bin", "w"), count = pictures.length / size;
for (let i = 0; i < count; i++) {
  const started = performance.now();
  const { logits, seen } = classify(pictures.subarray(i * size, (i + 1) * size), height, width);
  fs.writeSync(results, Float32Array.of(...logits, ...seen, performance.now() - started));
}
