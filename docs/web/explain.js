"use strict";
// The page around a model with an explanation inside. Everything that knows about the model is in explainPicture.

const $ = (id) => document.getElementById(id);
const numbers = (text) => text.split(",").map(Number);

/** The picture's pixels as the network takes them: float32 [1, 3, size, size], (pixel - mean) / std per channel. */
function prepare(pixels, size, mean, std) {
  const plane = size * size;
  const data = new Float32Array(3 * plane);
  for (let i = 0; i < plane; i++) {
    for (let c = 0; c < 3; c++) data[c * plane + i] = (pixels[4 * i + c] - mean[c]) / std[c];
  }
  return new ort.Tensor("float32", data, [1, 3, size, size]);
}

/** Run the network once; the map comes with the answer. */
async function explainPicture(session, picture, classIndex) {
  const image = session.inputNames.find((name) => name !== "class_index");
  const feeds = { [image]: picture, class_index: new ort.Tensor("int64", BigInt64Array.from([BigInt(classIndex)]), [1]) };
  const found = await session.run(feeds);
  const logits = session.outputNames.find((name) => name !== "explanation" && name !== "explained_class");
  return {
    logits: Array.from(found[logits].data),
    map: found.explanation.data,
    shape: found.explanation.dims,
    explained: Number(found.explained_class.data[0]),
  };
}

/** Red speaks for the class, blue against it, nothing in between; the scale is the largest absolute value. */
function draw(context, bitmap, size, map) {
  context.drawImage(bitmap, 0, 0, size, size);
  const shown = context.getImageData(0, 0, size, size);
  const largest = map.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-12);
  for (let i = 0; i < map.length; i++) {
    const value = map[i] / largest;
    const color = value > 0 ? [220, 30, 40] : [40, 80, 220];
    for (let c = 0; c < 3; c++) {
      const share = 0.75 * Math.abs(value);
      shown.data[4 * i + c] = (1 - share) * shown.data[4 * i + c] + share * color[c];
    }
  }
  context.putImageData(shown, 0, 0);
  return largest;
}

async function explainFiles(model, picture) {
  const size = Number($("size").value);
  $("said").textContent = "loading the model ...";
  const options = { executionProviders: ["wasm"], logSeverityLevel: 3 };
  const session = await ort.InferenceSession.create(await model.arrayBuffer(), options);
  const bitmap = await createImageBitmap(picture, { colorSpaceConversion: "none" });
  const canvas = $("map");
  canvas.width = canvas.height = size;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0, size, size);
  const pixels = context.getImageData(0, 0, size, size).data;
  const input = prepare(pixels, size, numbers($("mean").value), numbers($("std").value));
  $("said").textContent = "running ...";
  const began = performance.now();
  const answer = await explainPicture(session, input, Number($("class").value));
  const seconds = (performance.now() - began) / 1000;
  if (answer.map.length !== size * size) {
    $("said").textContent = `the map has shape [${answer.shape}]: embed it with --upsample to lay it over the picture`;
    return answer;
  }
  const largest = draw(context, bitmap, size, answer.map);
  $("said").textContent =
    `class ${answer.explained}, logit ${answer.logits[answer.explained].toFixed(3)}, in ${seconds.toFixed(2)} s.\n` +
    `Red speaks for it, blue against it; full color is ±${largest.toPrecision(3)}.`;
  return answer;
}

$("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const [model, picture] = [$("model").files[0], $("picture").files[0]];
  if (!model || !picture) {
    $("said").textContent = "choose a model and a picture first";
    return;
  }
  try {
    window.answer = await explainFiles(model, picture);
  } catch (error) {
    $("said").textContent = `it did not work: ${error.message}`;
    window.answer = { error: error.message };
  }
});
