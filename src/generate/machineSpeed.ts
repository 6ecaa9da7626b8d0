/**
 * How fast this machine reads memory and multiplies matrices, with the device's own kernels and threads: the limits of
 * decoding and of reading prompts. Knows nothing of answers. Letters: M rows.
 */
import { openCheckpoint } from '../checkpoint/folder.ts';
import { readQuantization } from '../checkpoint/quantise/formats.ts';
import { codesName, openStored, scalesName } from '../checkpoint/quantise/stored.ts';
import { median } from '../common/median.ts';
import { input, matMulNBits, type Program, program, sum, type Tensor } from '../graph/index.ts';
import { linear } from '../graph/nn.ts';
import { f32 } from '../model/feeds.ts';
import { expectedTensors } from '../model/weights.ts';
import type { Constants, Device, Feed, FileConstant, ResidentTensor } from '../runtime/types.ts';
import type { FusionModel } from './model.ts';
import { KERNEL_BYTES } from './workload.ts';

/** More than caches hold, which are up to some hundred MiB in servers: 512 MiB. */
const READ_SHAPE = [16_384, 8192] as const;
const F32 = Float32Array.BYTES_PER_ELEMENT;
const READ_BYTES = READ_SHAPE[0] * READ_SHAPE[1] * F32;
/** Runs are repeated until there are so many, and so many seconds have passed. */
const LEAST_RUNS = 5;
const LEAST_SECONDS = 0.5;

/** Bytes a second that are read of a tensor larger than caches: by sums, or by a product with one row if that is faster. */
export async function readRate(device: Device): Promise<number> {
  const [rows, width] = READ_SHAPE;
  // Zeros would be one page of memory that is there many times.
  const tensor = await device.upload(f32(new Float32Array(rows * width).fill(1), READ_SHAPE));
  const x = input('x', 'f32', READ_SHAPE);
  const ways = [
    program('sums', { y: sum(x, [0, 1]) }),
    program('one row', { y: linear(input('v', 'f32', [1, width]), x) }),
  ];
  const feeds = { x: tensor, v: f32(waves(width), [1, width]) };
  try {
    let least = Number.POSITIVE_INFINITY;
    for (const way of ways) least = Math.min(least, await secondsOf(device, way, {}, feeds));
    return READ_BYTES / least;
  } finally {
    await device.free([tensor]);
  }
}

/** Operations a second of f32 products of `rows` rows with a matrix of the decoder's width. */
export async function floatProductRate({ device, config }: FusionModel, rows: number): Promise<number> {
  const { hiddenSize: width, intermediateSize } = config.decoder;
  const out = Math.min(intermediateSize, 8192);
  const weight = await device.upload(f32(waves(out * width), [out, width]));
  const product = linear(input('x', 'f32', ['M', width]), input('w', 'f32', [out, width]));
  try {
    const feeds = { x: f32(waves(rows * width), [rows, width]), w: weight };
    const seconds = await secondsOf(device, program('product', { y: sum(product, [0]) }), {}, feeds);
    return (2 * rows * out * width) / seconds;
  } finally {
    await device.free([weight]);
  }
}

/** Operations a second of products of `rows` rows with the matrices of one decoder layer, in the model's own format. */
export async function layerProductRate(model: FusionModel, rows: number): Promise<number> {
  const { operations, seconds } = await layerProducts(model, 1, rows);
  return operations / seconds;
}

/**
 * Bytes a second of weights that products with one row get through: with the matrices of so many
 * decoder layers that caches do not hold them, where there are so many.
 */
export async function rowProductRate(model: FusionModel): Promise<number> {
  const { layers } = model.config.decoder;
  const one = matrixBytes(await layerMatrices(model, 1));
  const count = Math.min(layers, Math.ceil(READ_BYTES / one));
  const { bytes, seconds } = await layerProducts(model, count, 1);
  return bytes / seconds;
}

/** The products of `rows` rows with all matrices of the first layers: what they do, and how long it takes. */
async function layerProducts(model: FusionModel, layers: number, rows: number) {
  const { device, weights } = model;
  const matrices = await layerMatrices(model, layers);
  const inputs = new Map<number, Tensor>();
  const outputs = matrices.map(({ name, out, width, rounded }) => {
    const x = inputs.get(width) ?? input(`x.${width}`, 'f32', ['M', width]);
    inputs.set(width, x);
    const y =
      rounded === undefined
        ? linear(x, input(name, 'f32', [out, width]))
        : matMulNBits(x, inputOf(rounded.codes), inputOf(rounded.scales), {
            bits: rounded.bits,
            activations: 'int8',
          });
    // Sums are little to give back.
    return [`${name}.sum`, sum(y, [0, 1])] as const;
  });
  const feeds: Record<string, Feed> = {};
  for (const { name } of matrices) feeds[name] = weights[name] as ResidentTensor;
  for (const width of inputs.keys()) feeds[`x.${width}`] = f32(waves(rows * width), [rows, width]);
  const files = matrices.flatMap(({ rounded }) => (rounded ? [rounded.codes, rounded.scales] : []));
  const byName = Object.fromEntries(files.map(({ name, ...file }) => [name, file]));
  const traced = program('products', Object.fromEntries(outputs));
  return {
    seconds: await secondsOf(device, traced, byName, feeds),
    operations: 2 * rows * matrices.reduce((total, { out, width }) => total + out * width, 0),
    bytes: matrixBytes(matrices),
  };
}

interface NamedConstant extends FileConstant {
  readonly name: string;
}

const inputOf = ({ name, dtype, shape }: NamedConstant): Tensor => input(name, dtype, shape);

/** A Linear's weight; where it is kept rounded, its numbers and scales in their file. */
interface Matrix {
  readonly name: string;
  readonly out: number;
  readonly width: number;
  readonly rounded:
    | { readonly bits: 4 | 8; readonly codes: NamedConstant; readonly scales: NamedConstant }
    | undefined;
}

const matrixBytes = (matrices: readonly Matrix[]): number =>
  matrices.reduce(
    (total, { out, width, rounded }) => total + (rounded ? KERNEL_BYTES[rounded.bits] : F32) * out * width,
    0,
  );

/** The matrices of the decoder's first `layers` layers. */
async function layerMatrices({ config, dir }: FusionModel, layers: number): Promise<readonly Matrix[]> {
  const quantization = await readQuantization(dir);
  const stored = quantization && openStored(config, quantization.formats, await openCheckpoint(dir)).rounded;
  return [...expectedTensors(config)].flatMap(([name, [out = 0, width]]) => {
    const layer = /^model\.layers\.(\d+)\./.exec(name)?.[1];
    if (width === undefined || layer === undefined || Number(layer) >= layers) return [];
    const weight = stored?.get(name);
    const rounded = weight && {
      bits: weight.bits,
      codes: { ...weight.codes, dtype: 'u8' as const, name: codesName(weight) },
      scales: { ...weight.scales, dtype: 'f32' as const, name: scalesName(weight) },
    };
    return [{ name, out, width, rounded }];
  });
}

/** The median duration of a run, after one that does not count. */
async function secondsOf(
  device: Device,
  traced: Program,
  constants: Constants,
  feeds: Readonly<Record<string, Feed>>,
): Promise<number> {
  const executable = await device.load(traced, constants);
  const names = new Set(traced.inputs.map(({ name }) => name));
  const own = Object.fromEntries(Object.entries(feeds).filter(([name]) => names.has(name)));
  try {
    await executable.run(own);
    const durations: number[] = [];
    for (let total = 0; durations.length < LEAST_RUNS || total < LEAST_SECONDS; ) {
      const start = performance.now();
      await executable.run(own);
      durations.push((performance.now() - start) / 1e3);
      total += durations.at(-1) ?? 0;
    }
    return median(durations);
  } finally {
    await executable.dispose();
  }
}

/** Values without a pattern that products could profit from. */
const waves = (count: number): Float32Array => Float32Array.from({ length: count }, (_, i) => Math.sin(i));
