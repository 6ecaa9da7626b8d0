/** The bytes of a model: wire format, sharing of equal nodes, and letters read from the inputs. */
import { describe, expect, it } from 'vitest';
import { compile, device, expectClose, expectLoweringMatches } from '../../test/support/lowered.ts';
import { type NdArray, ndArray } from '../../test/support/reference.ts';
import * as f from '../graph/functions.ts';
import { program } from '../graph/program.ts';
import { constant, input, scalar, type Tensor } from '../graph/tensor.ts';
import { lowerProgram } from './lower.ts';
import { encodeModel, toOnnx } from './model.ts';
import { MessageWriter } from './protobuf.ts';

const bytes = (write: (m: MessageWriter) => void): readonly number[] => {
  const message = new MessageWriter();
  write(message);
  return [...message.finish()];
};

/** Fields of one level of a message: number → the value of each occurrence. */
function decode(data: Uint8Array): Map<number, (bigint | Uint8Array)[]> {
  const fields = new Map<number, (bigint | Uint8Array)[]>();
  let at = 0;
  const varint = (): bigint => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = data[at++]!;
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return value;
    }
  };
  while (at < data.length) {
    const tag = Number(varint());
    const [field, wire] = [tag >> 3, tag & 7];
    const length = wire === 2 ? Number(varint()) : wire === 5 ? 4 : 0;
    const value = wire === 0 ? varint() : data.subarray(at, at + length);
    at += length;
    fields.set(field, [...(fields.get(field) ?? []), value]);
  }
  expect(at).toBe(data.length);
  return fields;
}

const text = (value: bigint | Uint8Array | undefined): string =>
  new TextDecoder().decode(value as Uint8Array);

describe('MessageWriter', () => {
  it.each<readonly [number | bigint, readonly number[]]>([
    [0, [0]],
    [1, [1]],
    [127, [127]],
    [128, [0x80, 1]],
    [300, [0xac, 2]],
    [16383, [0xff, 0x7f]],
    [16384, [0x80, 0x80, 1]],
    [2 ** 31 - 1, [0xff, 0xff, 0xff, 0xff, 7]],
    [2 ** 31, [0x80, 0x80, 0x80, 0x80, 8]],
    [2 ** 40, [0x80, 0x80, 0x80, 0x80, 0x80, 0x20]],
    [-1, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]],
    [-(2 ** 31), [0x80, 0x80, 0x80, 0x80, 0xf8, 0xff, 0xff, 0xff, 0xff, 1]],
    [2n ** 63n - 1n, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]],
    [-(2n ** 63n), [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1]],
  ])('writes %s as a varint', (value, expected) => {
    expect(bytes((m) => m.int(1, value))).toEqual([8, ...expected]);
  });

  it('does not cut a fraction off', () => {
    expect(() => bytes((m) => m.int(1, 1.5))).toThrow('1.5');
  });

  it('writes floats, strings and messages', () => {
    expect(bytes((m) => m.float(2, -2.5))).toEqual([0x15, 0, 0, 0x20, 0xc0]);
    expect(bytes((m) => m.string(1, 'é'))).toEqual([10, 2, 0xc3, 0xa9]);
    expect(bytes((m) => m.message(20, (inner) => inner.int(1, 128)))).toEqual([0xa2, 1, 3, 8, 0x80, 1]);
    expect(bytes((m) => m.bytes(1, new Uint8Array(200))).slice(0, 3)).toEqual([10, 200, 1]);
    expect(bytes(() => {})).toEqual([]);
  });
});

const x = input('x', 'f32', ['N', 3]);

const feeds = (values: Readonly<Record<string, readonly (readonly number[])[]>>): Map<string, NdArray> =>
  new Map(
    Object.entries(values).map(([name, [shape = [], data = []]]) => [name, ndArray('f32', shape, data)]),
  );

const operators = (y: Tensor): readonly string[] =>
  lowerProgram(program('p', { y }), 'plain').nodes.map(({ operator }) => operator);

describe('a tiny model', () => {
  const traced = program('tiny', { y: f.add(f.multiply(x, 2), 1) });

  it('has the fields of a ModelProto', () => {
    const model = decode(toOnnx(traced, 'plain'));
    expect(model.get(1)).toEqual([10n]);
    const domains = (bytes: ReadonlyMap<number, readonly (bigint | Uint8Array)[]>) =>
      bytes.get(8)!.map((opset) => text(decode(opset as Uint8Array).get(1)?.[0]));
    expect(domains(model)).toEqual(['']);
    const own = program('own', { y: f.matMul(x, x, { transposeB: true }) });
    expect(domains(decode(toOnnx(own, 'cpu')))).toEqual(['', 'com.microsoft']);
    const graph = decode(model.get(7)![0] as Uint8Array);
    expect(text(graph.get(2)![0])).toBe('tiny');
    const nodes = graph.get(1)!.map((node) => text(decode(node as Uint8Array).get(4)![0]));
    expect(nodes).toEqual(['Mul', 'Add', 'Identity']);
    expect(text(decode(graph.get(11)![0] as Uint8Array).get(1)![0])).toBe('x');
    expect(text(decode(graph.get(12)![0] as Uint8Array).get(1)![0])).toBe('y');
  });

  it('is the same bytes each time', () => {
    expect(toOnnx(traced, 'cpu')).toEqual(encodeModel(lowerProgram(traced, 'cpu')));
  });

  it('names its inputs and outputs for ONNX Runtime and computes', async () => {
    const session = await device.createSession(toOnnx(traced, 'plain'));
    expect([session.inputNames, session.outputNames]).toEqual([['x'], ['y']]);
    const run = await compile(traced, 'plain');
    const got = await run(
      feeds({
        x: [
          [1, 3],
          [1, 2, 3],
        ],
      }),
    );
    expectClose(got.get('y'), ndArray('f32', [1, 3], [3, 5, 7]), 'y');
  });
});

describe('lowering', () => {
  it('shares equal nodes and equal constants', () => {
    expect(operators(f.add(f.exp(x), f.exp(x)))).toEqual(['Exp', 'Add', 'Identity']);
    const { initializers } = lowerProgram(program('p', { y: f.add(f.multiply(x, 2), 2) }), 'plain');
    expect(initializers.length).toBe(1);
  });

  it('keeps apart what differs in an attribute, a shape, a dtype or the sign of zero', async () => {
    const two = (shape: readonly number[]) => constant(new Float32Array(1).fill(2), 'f32', shape);
    const sums = f.multiply(f.sum(x, [1]), f.reshape(f.sum(x, [1], { keepDims: true }), ['N']));
    expect(operators(sums).filter((name) => name === 'ReduceSum').length).toBe(2);
    const y = f.add(f.add(x, two([])), f.add(two([1, 1]), f.cast(scalar(2, 'f64'), 'f32')));
    expect(lowerProgram(program('p', { y }), 'plain').initializers.length).toBe(3);
    const ones = f.fill(1, [1]);
    const outputs = { plus: f.divide(ones, constant(Float32Array.of(0), 'f32', [1])) };
    const both = { ...outputs, minus: f.divide(ones, constant(Float32Array.of(-0), 'f32', [1])) };
    await expectLoweringMatches(both, new Map());
  });

  it('names nothing like an input', async () => {
    const [v, c] = [input('v1', 'f32', [2]), input('c0', 'f32', [2])];
    const y = f.multiply(f.exp(f.add(v, 3)), c);
    await expectLoweringMatches({ y, v2: f.negate(y) }, feeds({ v1: [[2], [0, 1]], c0: [[2], [2, 3]] }));
  });

  it('rejects an output with the name of an input', () => {
    expect(() => program('p', { x })).toThrow('program p: x is the name of an input and of an output');
  });

  it('gives one tensor under several names', async () => {
    const y = f.exp(x);
    await expectLoweringMatches(
      { a: y, b: y, c: x },
      feeds({
        x: [
          [1, 3],
          [1, 2, 3],
        ],
      }),
    );
  });
});

describe('letters', () => {
  const joined = input('joined', 'f32', ['4+S']);
  const short = input('short', 'f32', ['S']);

  it('are read from an input that has them alone', async () => {
    const outputs = { tail: f.slice(joined, 0, 4, 'S'), sum: f.add(f.slice(joined, 0, 4, 'S'), short) };
    await expectLoweringMatches(outputs, feeds({ joined: [[6], [1, 2, 3, 4, 5, 6]], short: [[2], [7, 8]] }));
    const squares = f.square(f.fill(3, ['2*N*N']));
    await expectLoweringMatches(
      { squares, rows: f.sum(x, [1]) },
      feeds({
        x: [
          [2, 3],
          [1, 2, 3, 4, 5, 6],
        ],
      }),
    );
  });

  it('that no input has are an error', () => {
    const lost = program('p', { y: f.add(x, f.fill(1, ['M', 1, 1])) });
    expect(() => toOnnx(lost, 'cpu')).toThrow('internal: no input of the program has the dimension M');
    const inside = program('p', { y: f.slice(joined, 0, 4, 'S') });
    expect(() => toOnnx(inside, 'cpu')).toThrow('has the dimension S');
  });

  it('of two inputs with one name must agree', () => {
    const other = input('x', 'f32', ['M', 3]);
    expect(() => program('p', { y: f.exp(x), z: f.exp(other) })).toThrow(
      'two inputs are called x: [N, 3] and [M, 3]',
    );
  });
});

describe('shapes of values in between', () => {
  it('are written for every node, letters included, so that buffers can be planned', () => {
    const x = input('x', 'f32', ['B', 3]);
    const graph = lowerProgram(program('values', { y: f.multiply(f.add(x, 1), x) }), 'cpu');
    const known = new Map(graph.values.map(({ name, shape }) => [name, shape]));
    const made = graph.nodes
      .filter(({ operator }) => operator !== 'Identity')
      .flatMap(({ outputs }) => outputs);
    expect(made.length).toBe(2);
    expect(made.map((name) => known.get(name))).toEqual([
      ['B', 3],
      ['B', 3],
    ]);
  });
});
