/**
 * Runs an exported model with onnxruntime-node and nothing of this project, as another program would: it knows what
 * docs/export.md and the folder's export.json say. Arguments: the folder, and a JSON file with `ids` (placeholders
 * included), `endsOfQuestion`, `instructs`, `crops` (a file of f32 [5, 3, S, S]) and `next` (tokens to feed one by one).
 * Prints the logits after the prompt and after each token.
 */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { InferenceSession, Tensor } from 'onnxruntime-node';

const [folder, requestFile] = process.argv.slice(2);
const about = JSON.parse(readFileSync(path.join(folder, 'export.json'), 'utf8'));
const { ids, endsOfQuestion, instructs, crops, next } = JSON.parse(readFileSync(requestFile, 'utf8'));

const f32 = (data, shape) => new Tensor('float32', data, shape);
const i32 = (data, shape = [data.length]) => new Tensor('int32', Int32Array.from(data), shape);

/** Runs a graph of the export, which is loaded by its file's name so that its weights are found. */
async function run(name, feeds) {
  const { file, inputs } = about.graphs[name];
  const session = await InferenceSession.create(path.join(folder, file));
  for (const { name: input, dtype, shape } of inputs) {
    if (feeds[input]?.type !== dtype || feeds[input].dims.length !== shape.length) {
      throw new Error(`${name}: no value for ${input}, ${dtype} [${shape}]`);
    }
  }
  const outputs = await session.run(feeds);
  await session.release();
  return outputs;
}

/** cos and sin of positions `first … first + count − 1`, of a sequence `total` long. */
function rotary(first, count, total) {
  const { scale, long } = about.rotary;
  const { frequencies } = long !== undefined && total > long.beyond ? long : about.rotary;
  const angles = Array.from({ length: count }, (_, i) =>
    frequencies.map((f) => Math.fround((first + i) * f)),
  );
  const table = (of) =>
    f32(
      Float32Array.from(angles.flat(), (angle) => of(angle) * scale),
      [count, frequencies.length],
    );
  return { rotary_cos: table(Math.cos), rotary_sin: table(Math.sin) };
}

/** Where each position of the prompt comes from, and which positions are latents. */
function layOut() {
  const { image_placeholder: image, latent_placeholder: latent } = about.tokens;
  const isPlaceholder = (id) => id === image || id === latent;
  const text = ids.filter((id) => !isPlaceholder(id));
  const [firstImage, firstLatent] = [text.length, text.length + about.image_tokens];
  const none = firstLatent + about.query_length;
  const hasImage = ids.includes(image);
  const [sources, latents, place] = [[], [], []];
  let [texts, imagePending] = [0, hasImage];
  for (const [i, id] of ids.entries()) {
    place[i] = sources.length;
    if (!isPlaceholder(id)) {
      sources.push(texts++);
      continue;
    }
    const count = imagePending ? about.image_tokens : about.query_length;
    for (let k = 0; k < count; k++) {
      if (!imagePending) latents.push(sources.length);
      sources.push(imagePending ? firstImage + k : hasImage ? firstLatent + k : none);
    }
    imagePending = false;
  }
  const question = (l) => place[endsOfQuestion[Math.floor(l / about.query_length)]];
  return {
    length: sources.length,
    feeds: {
      text_ids: i32(text),
      sources: i32(sources, [1, sources.length]),
      latent_positions: i32(latents),
      question_positions: i32(latents.map((_, l) => question(l))),
      window_index: i32(latents.map((_, l) => l % about.query_length)),
      last_positions: i32([sources.length - 1]),
    },
  };
}

/** The features of four tiles, one after the other, and the picture as the decoder reads it. */
async function look() {
  const side = about.preprocessing.whole.resize_to[0];
  const bytes = readFileSync(crops);
  const pixels = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
  const crop = (from, count) => {
    const size = 3 * side * side;
    return f32(pixels.slice(from * size, (from + count) * size), [count, 3, side, side]);
  };
  const { features } = await run('encode_tile', { tile_pixels: crop(0, 4) });
  const whole = { pixels: crop(4, 1), instructs: i32(instructs, [1, instructs.length]) };
  const { image_tokens } = await run('encode_whole', whole);
  return { image_tokens, tile_features: features.reshape([1, 4 * about.patches, about.width]) };
}

/** A cache of `capacity` slots with the prompt's keys and values in it. */
function startCache(outputs, length, capacity) {
  const { kv_heads: heads, head_size: size } = about.cache;
  return about.cache.outputs.map((name) => {
    const data = new Float32Array(heads * capacity * size);
    for (let head = 0; head < heads; head++) {
      const from = head * length * size;
      data.set(outputs[name].data.subarray(from, from + length * size), head * capacity * size);
    }
    return data;
  });
}

const { length, feeds } = layOut();
const prompt = await run('prefill', { ...feeds, ...(await look()), ...rotary(0, length, length) });
const logits = [Array.from(prompt.logits.data)];
const capacity = length + next.length;
const caches = startCache(prompt, length, capacity);
const { kv_heads: heads, head_size: size } = about.cache;
for (const [step, token] of next.entries()) {
  const used = length + step;
  const past = about.cache.inputs.map((name, i) => [name, f32(caches[i], [1, heads, capacity, size])]);
  const outputs = await run('decode', {
    token: i32([token]),
    length: i32([used]),
    ...rotary(used, 1, used + 1),
    ...Object.fromEntries(past),
  });
  for (const [i, name] of about.cache.outputs.entries()) {
    for (let head = 0; head < heads; head++) {
      const row = outputs[name].data.subarray(head * size, (head + 1) * size);
      caches[i].set(row, (head * capacity + used) * size);
    }
  }
  logits.push(Array.from(outputs.logits.data));
}
console.log(JSON.stringify({ logits }));
