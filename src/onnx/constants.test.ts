/** Constants in files, on both devices. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { Random } from '../common/random.ts';
import { add, codesShape, input, matMulNBits, program } from '../graph/index.ts';
import { LocalDevice } from '../runtime/localDevice.ts';
import type { Constants, Device, HostTensor } from '../runtime/types.ts';
import { WorkerDevice } from '../runtime/workerDevice.ts';

const folder = mkdtempSync(join(tmpdir(), 'fusion-constants-'));
const devices: readonly (readonly [string, Device])[] = [
  ['LocalDevice', new LocalDevice({ threads: 1 })],
  ['WorkerDevice', new WorkerDevice({ threads: 1 })],
];
afterAll(async () => {
  for (const [, device] of devices) await device.close();
  rmSync(folder, { recursive: true });
});

const [OUT, WIDTH] = [6, 64];
const random = new Random('constants');
const codes = Uint8Array.from({ length: OUT * 64 }, () => random.integer(256));
const scales = Float32Array.from({ length: OUT * 2 }, () => 0.5 + random.integer(4));
const shift = Float32Array.from({ length: OUT }, (_, i) => i);

/** A file with the tensors at places that no page begins at. */
function constantsFile(name: string): Constants {
  const file = join(folder, name);
  const parts = [new Uint8Array(8), codes, scales, shift];
  writeFileSync(file, Buffer.concat(parts.map(({ buffer }) => new Uint8Array(buffer))));
  const at = (begin: number, byteLength: number) => ({ file, begin, byteLength });
  return {
    codes: { ...at(8, codes.length), dtype: 'u8', shape: codesShape(OUT, WIDTH, 8) },
    scales: { ...at(8 + codes.length, scales.byteLength), dtype: 'f32', shape: [OUT, 2] },
    shift: { ...at(8 + codes.length + scales.byteLength, shift.byteLength), dtype: 'f32', shape: [OUT] },
  };
}

const vector = (size: number): HostTensor => {
  const data = new Float32Array(size);
  random.fillNormal(data, 1);
  return { dtype: 'f32', shape: [1, size], data };
};

/** x · Wᵀ, the fast kernel of ONNX Runtime. rows: the letter of x's rows. */
function product(rows: string) {
  const x = input('x', 'f32', [rows, WIDTH]);
  const y = matMulNBits(
    x,
    input('codes', 'u8', codesShape(OUT, WIDTH, 8)),
    input('scales', 'f32', [OUT, 2]),
    {
      bits: 8,
      activations: 'int8',
    },
  );
  return add(y, input('shift', 'f32', [OUT]));
}

function expected({ data }: HostTensor): readonly number[] {
  return Array.from(shift, (start, n) => {
    let y = start;
    for (let k = 0; k < WIDTH; k++) {
      const code = codes[n * WIDTH + k]!;
      y += Number(data[k]) * (code - 128) * scales[n * 2 + Math.floor(k / 32)]!;
    }
    return y;
  });
}

function expectNear(got: HostTensor | undefined, values: readonly number[]): void {
  expect(got?.data).toHaveLength(values.length);
  const size = Math.hypot(...values) / Math.sqrt(values.length);
  for (const [i, value] of values.entries())
    expect(Math.abs(Number(got!.data[i]) - value)).toBeLessThan(0.02 * size);
}

it.each(devices)('a program uses its constants where they lie in the file: %s', async (_name, device) => {
  const y = product('M');
  const executable = await device.load(program('one', { y }), constantsFile('one.bin'));
  const x = vector(WIDTH);
  expectNear((await executable.run({ x })).outputs.y, expected(x));
  // What is constant cannot be fed something else.
  const other = { dtype: 'f32', shape: [OUT], data: new Float32Array(OUT) } as const;
  expectNear((await executable.run({ x, shift: other })).outputs.y, expected(x));
  await expect(executable.run({})).rejects.toThrow(/no value for the input x/);
  await executable.dispose();
});

it('refuses constants that are not what the program takes', async () => {
  const [, device] = devices[0]!;
  const constants = constantsFile('bad.bin');
  const y = product('M');
  const wrong = { ...constants, shift: { ...constants.shift!, shape: [2, 3] } };
  await expect(device.load(program('a', { y }), wrong)).rejects.toThrow(
    /constant shift is f32 \[2,3\], not f32/,
  );
  const apart = { ...constants, shift: { ...constants.shift!, file: '/elsewhere/file' } };
  await expect(device.load(program('a', { y }), apart)).rejects.toThrow(/2 folders/);
});
