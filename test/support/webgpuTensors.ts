/**
 * The same calls on the CPU and on WebGPU; prints what each gave as one JSON line, or `{reason}` where there is no such
 * device.
 */
import * as f from '../../src/graph/functions.ts';
import { program } from '../../src/graph/program.ts';
import { input } from '../../src/graph/tensor.ts';
import { describeDevices } from '../../src/runtime/device.ts';
import { LocalDevice } from '../../src/runtime/localDevice.ts';
import type { Block, DeviceName, Feed, HostTensor, ResidentTensor } from '../../src/runtime/types.ts';

const f32 = (shape: readonly number[], first = 0): HostTensor => {
  const size = shape.reduce((a, b) => a * b, 1);
  return { dtype: 'f32', shape, data: Float32Array.from({ length: size }, (_, i) => first + i) };
};

/** What every step leaves, by its name. */
async function scenario(name: DeviceName): Promise<Record<string, unknown>> {
  const device = new LocalDevice({ name, threads: 1 });
  const seen: Record<string, unknown> = {};
  const note = async (step: string, tensor: ResidentTensor) => {
    const { shape, data } = await device.download(tensor);
    seen[step] = { shape, data: Array.from(data, Number) };
  };
  const [a, b] = [input('a', 'f32', ['N', 2]), input('b', 'f32', ['N', 1])];
  const traced = program('both', { sum: f.add(a, b), product: f.multiply(a, b), sizes: f.cast(a, 'i32') });
  const loaded = await device.load(traced);
  const resident = await device.upload(f32([2, 1], 10));
  await note('uploaded', resident);

  const cache = await device.zeros('f32', [2, 2, 3, 2]);
  const write = { product: { to: cache, blocks: [{ at: [1, 0, 1], from: [0], size: [1, 1] }] } };
  const wide = await device.load(
    program('wide', { product: f.multiply(input('x', 'f32', ['B', 2, 'S', 2]), 2) }),
  );
  await wide.run({ x: f32([1, 2, 2, 2], 1) }, { write });
  await note('written', cache);
  const copy = (from: Feed, ...blocks: Block[]) => device.copy([{ from, target: { to: cache, blocks } }]);
  await copy(cache, { from: [1, 0, 1], size: [1, 1, 1], at: [0, 1, 2] });
  await note('copied within', cache);
  await copy(cache, { from: [1], size: [0], at: [0] });
  await note('copied nothing', cache);
  await copy(f32([1, 2, 1, 2], 7), { at: [1, 0, 0] }, { at: [1, 0, 2] });
  await note('copied from the host', cache);

  const resized = async (tensor: ResidentTensor, slots: number) => {
    const [other] = await device.resize([tensor], [2, 2, slots, 2]);
    await note(`${slots} slots after ${tensor.shape[2]}`, other as ResidentTensor);
    return other as ResidentTensor;
  };
  let other = await device.upload(f32([2, 2, 3, 2], 1));
  for (const slots of [5, 2, 0, 4]) other = await resized(other, slots);

  const { outputs, kept } = await loaded.run({ a: f32([2, 2]), b: resident }, { keep: ['sum'] });
  seen.returned = Array.from(outputs.product?.data ?? [], Number);
  seen.integers = Array.from(outputs.sizes?.data ?? [], Number);
  const sum = kept.sum as ResidentTensor;
  await loaded.dispose();
  await note('kept beyond its program', sum);

  const integers = await device.upload({ dtype: 'i32', shape: [2], data: Int32Array.of(3, 4) });
  await note('integers', integers);
  await note('empty', await device.zeros('f32', [0, 3]));
  await device.accumulate([sum], [sum]);
  await note('accumulated', sum);
  seen.norms = (await device.norms([sum])).map((norm) => norm.toFixed(3));
  const [weight, gradient] = [await device.upload(f32([3], 1)), await device.upload(f32([3], 2))];
  const [firstMoment, secondMoment] = [await device.zeros('f32', [3]), await device.zeros('f32', [3])];
  const rates = { learningRate: 0.1, weightDecay: 0.1 };
  await device.adamW([{ weight, gradient, firstMoment, secondMoment, ...rates }], {
    step: 1,
    beta1: 0.9,
    beta2: 0.99,
    epsilon: 1e-6,
    gradientScale: 1,
  });
  await note('updated', weight);
  await note('first moment', firstMoment);
  await device.free([sum]);
  seen.freed = await device.download(sum).catch((error: Error) => error.message);
  await device.close();
  return seen;
}

const found = (await describeDevices()).find(({ name }) => name === 'webgpu');
const result = found?.available
  ? { cpu: await scenario('cpu'), webgpu: await scenario('webgpu') }
  : { reason: found?.reason ?? 'unknown to this package' };
console.log(JSON.stringify(result));
