/**
 * Our side of `npm run bench -- forward` and `train`: prepares one mode of one size, then runs it once for each line on
 * standard input and answers with the seconds it took; at the end of input, the peak memory.
 *
 * usage: tsx bench/modelCase.ts SIZE encode|prefill|gradients|train|first-token|decode [THREADS [recompute]]
 */
import { closeSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { Random } from '../src/common/random.ts';
import { KvCache } from '../src/generate/kvCache.ts';
import { hasConstantWeights } from '../src/generate/smallModels.ts';
import { f32, i32, rotaryFeeds, rotaryRowFeeds, sequenceFeeds } from '../src/model/feeds.ts';
import {
  decodeProgram,
  lossAndGradientsProgram,
  prefillProgram,
  tileProgram,
  wholeProgram,
} from '../src/model/programs.ts';
import { END_OF_QUESTION, IGNORE, IMAGE, LATENT } from '../src/model/sentinels.ts';
import { layOutSequences } from '../src/model/sequence.ts';
import { expectedTensors } from '../src/model/weights.ts';
import { LocalDevice } from '../src/runtime/localDevice.ts';
import {
  type Constants,
  type Feed,
  type FileConstant,
  type HostTensor,
  isResident,
  type ResidentTensor,
} from '../src/runtime/types.ts';
import { Trainer } from '../src/train/trainer.ts';
import { type BenchShape, benchShape, type ShapeName } from './shapes.ts';

type Feeds = Record<string, Feed>;

const [name = 'tiny', mode = 'gradients', threads = '2', option = ''] = process.argv.slice(2);
/** Whether layers are computed again in the backward pass. */
const recompute = option === 'recompute';

const random = new Random(0);

function normal(shape: readonly number[], deviation: number): HostTensor {
  const data = new Float32Array(shape.reduce((a, b) => a * b, 1));
  random.fillNormal(data, deviation);
  return f32(data, shape);
}

/** Weights as the peer draws them: normal with deviation 0.02, norms of one. */
async function loadWeights(device: LocalDevice, { config }: BenchShape): Promise<Feeds> {
  const feeds: Feeds = {};
  for (const [name, shape] of expectedTensors(config)) {
    const isNorm = shape.length === 1 && name.endsWith('.weight');
    const values = isNorm ? f32(new Float32Array(shape[0] ?? 0).fill(1), shape) : normal(shape, 0.02);
    feeds[name] = await device.upload(values);
  }
  return feeds;
}

/** The peer's sample: four tokens, latents, two tokens, the image, then text whose second half is the answer. */
function batchFeeds({ config, batch, queryLength, text }: BenchShape): Feeds {
  const { decoder, vision } = config;
  const ids = (count: number) =>
    Array.from({ length: count }, () => 8 + random.integer(decoder.vocabSize - 8));
  const samples = Array.from({ length: batch }, () => {
    const inputIds = [...ids(4), LATENT, ...ids(2), IMAGE, ...ids(text)];
    const labels = inputIds.map((id, i) => (i >= inputIds.length - text / 2 ? id : IGNORE));
    labels[inputIds.length - text / 2 - 1] = END_OF_QUESTION;
    return { inputIds, labels };
  });
  const sizes = { imageTokens: vision.patches, queryLength, maxLength: config.maxLength };
  const layout = layOutSequences(samples, sizes);
  const side = vision.imageSize;
  return {
    pixels: normal([batch, 5, 3, side, side], 1),
    instructs: i32(Int32Array.from(ids(batch * 12)), [batch, 12]),
    ...sequenceFeeds(layout),
    ...rotaryFeeds(decoder, 0, layout.sequence, layout.sequence),
    last_positions: i32(Int32Array.from(layout.lengths, (length, b) => b * layout.sequence + length - 1)),
  };
}

/** The tiles and the whole of each sample, apart: [B·4, 3, S, S] and [B, 3, S, S]. */
function splitCrops(feeds: Feeds, { batch, config }: BenchShape): { tiles: HostTensor; whole: HostTensor } {
  const { data } = feeds.pixels as HostTensor;
  const side = config.vision.imageSize;
  const crop = 3 * side * side;
  const tiles = new Float32Array(batch * 4 * crop);
  const whole = new Float32Array(batch * crop);
  for (let b = 0; b < batch; b++) {
    const pixels = data.subarray(b * 5 * crop, (b + 1) * 5 * crop) as Float32Array;
    tiles.set(pixels.subarray(0, 4 * crop), b * 4 * crop);
    whole.set(pixels.subarray(4 * crop), b * crop);
  }
  return { tiles: f32(tiles, [batch * 4, 3, side, side]), whole: f32(whole, [batch, 3, side, side]) };
}

/** A whole optimisation step: gradients, clipping, AdamW. */
async function prepareTraining(device: LocalDevice, { config, queryLength }: BenchShape, feeds: Feeds) {
  const weights = Object.fromEntries(
    Object.entries(feeds).filter((entry): entry is [string, ResidentTensor] => isResident(entry[1])),
  );
  const rules = new Map(
    Object.keys(weights).map((name) => [name, { learningRate: 1e-4, weightDecay: 0.01 }]),
  );
  const trainer = await Trainer.create(device, config, weights, rules, new Map(), { recompute });
  const host = Object.entries(feeds).filter((entry): entry is [string, HostTensor] => !isResident(entry[1]));
  const batch = { ids: [], feeds: Object.fromEntries(host), tokens: 0 };
  let step = 0;
  return async () => {
    step += 1;
    await trainer.step([batch], { step, queryLength, rateFactor: 1, clipNorm: 1 });
  };
}

/** Weights in a file, where programs of answers have them as constants. */
async function constantWeights({ config }: BenchShape, feeds: Feeds, folder: string): Promise<Constants> {
  if (!hasConstantWeights(config)) return {};
  const constants: Record<string, FileConstant> = {};
  const file = path.join(folder, 'weights');
  const fd = openSync(file, 'w');
  let begin = 0;
  for (const [name, shape] of expectedTensors(config)) {
    const { data } = await device.download(feeds[name] as ResidentTensor);
    const { byteLength } = data;
    writeSync(fd, new Uint8Array(data.buffer, data.byteOffset, byteLength));
    constants[name] = { file, begin, byteLength, dtype: 'f32', shape };
    begin += byteLength;
  }
  closeSync(fd);
  return constants;
}

/** The five crops of each sample through the tower, as an answer needs them. */
async function prepareEncoding(
  device: LocalDevice,
  shape: BenchShape,
  feeds: Feeds,
  constants: Constants = {},
) {
  const { config, batch } = shape;
  const { tiles, whole } = splitCrops(feeds, shape);
  const encodeTiles = await device.load(tileProgram(config), constants);
  const encodeWhole = await device.load(wholeProgram(config), constants);
  return async (): Promise<Feeds> => {
    const { features } = (await encodeTiles.run({ ...feeds, tile_pixels: tiles })).outputs;
    const { image_tokens } = (await encodeWhole.run({ ...feeds, pixels: whole })).outputs;
    const width = config.decoder.hiddenSize;
    const tileFeatures = { ...(features as HostTensor), shape: [batch, 4 * config.vision.patches, width] };
    return { tile_features: tileFeatures, image_tokens: image_tokens as HostTensor };
  };
}

/** `DECODED` tokens after a prompt that is read once, before; for one sample. */
async function prepareDecoding(
  device: LocalDevice,
  { config, queryLength }: BenchShape,
  feeds: Feeds,
  constants: Constants,
) {
  const cache = new KvCache(device, config.decoder);
  const length = (feeds.sources as HostTensor).shape[1] ?? 0;
  const row = await cache.open(length + DECODED);
  const prefill = await device.load(prefillProgram(config, queryLength), constants);
  await prefill.run(feeds, { write: cache.writes(row) });
  await prefill.dispose();
  const decode = await device.load(decodeProgram(config), constants);
  return async () => {
    cache.clear(row);
    cache.advance(row, length);
    for (let token = 0; token < DECODED; token++) {
      const lengths = Int32Array.of(row.length);
      await decode.run(
        {
          ...feeds,
          ...cache.feeds(),
          ...rotaryRowFeeds(config.decoder, lengths),
          token: i32(Int32Array.of(token)),
          length: i32(lengths),
        },
        { write: cache.appends([row]) },
      );
      cache.advance(row, 1);
    }
  };
}

/** As the peer decodes. */
const DECODED = 16;

async function prepare(device: LocalDevice, mode: string, shape: BenchShape): Promise<() => Promise<void>> {
  const { config, queryLength } = shape;
  const feeds = { ...(await loadWeights(device, shape)), ...batchFeeds(shape) };
  if (mode === 'gradients') {
    const names = [...expectedTensors(config).keys()];
    const step = await device.load(lossAndGradientsProgram(config, queryLength, names, { recompute }));
    return async () => {
      await step.run(feeds);
    };
  }
  if (mode === 'train') return prepareTraining(device, shape, feeds);
  if (mode === 'encode') {
    const encode = await prepareEncoding(device, shape, feeds);
    return async () => {
      await encode();
    };
  }
  const constants = isAnswer(mode) ? await constantWeights(shape, feeds, folder) : {};
  const encode = await prepareEncoding(device, shape, feeds, constants);
  if (mode === 'decode') {
    return prepareDecoding(device, shape, { ...feeds, ...(await encode()) }, constants);
  }
  const prefill = await device.load(prefillProgram(config, queryLength), constants);
  return async () => {
    await prefill.run({ ...feeds, ...(await encode()) });
  };
}

/** Whether a mode is a part of answering, as `ask` does it. */
const isAnswer = (mode: string): boolean => mode === 'first-token' || mode === 'decode';

/** Answers are measured one at a time. */
function shapeOf(name: string, mode: string): BenchShape {
  const shape = benchShape(name as ShapeName);
  return isAnswer(mode) ? { ...shape, batch: 1 } : shape;
}

const profile = process.env.FUSION_PROFILE;
const device = new LocalDevice({ threads: Number(threads), ...(profile === undefined ? {} : { profile }) });
const folder = mkdtempSync(path.join(tmpdir(), 'fusion-bench-'));
const run = await prepare(device, mode, shapeOf(name, mode));
// What is resident before the first run: weights, moments, the compiled program.
const resident = process.memoryUsage.rss();
await run();
console.log(`ready ${resident}`);
for await (const _ of createInterface({ input: process.stdin })) {
  const start = performance.now();
  await run();
  console.log(((performance.now() - start) / 1e3).toFixed(5));
}
await device.close();
rmSync(folder, { recursive: true });
console.log(process.resourceUsage().maxRSS * 1024);
process.exit(0);
