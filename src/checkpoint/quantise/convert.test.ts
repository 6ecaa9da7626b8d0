/** Converting a small checkpoint: what is in the folder, what is refused, and what an interruption leaves. */
import {
  copyFileSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type RandomModel, randomModel } from '../../../test/support/randomModel.ts';
import { f16ToF32, f32ToF16 } from '../../common/numberFormats.ts';
import { readFusionConfig } from '../../model/config.ts';
import { validateTensors } from '../../model/weights.ts';
import { type Checkpoint, openCheckpoint } from '../folder.ts';
import { cacheFolder, convertedFolder } from './cache.ts';
import { type ConvertOptions, convertFolder } from './convert.ts';
import { parseQuantization, partFormats, readQuantization } from './formats.ts';
import { dequantiseRows } from './quantise.ts';
import { openStored } from './stored.ts';

let model: RandomModel;
let source: Checkpoint;
/** The model in int4. */
let int4: string;
let count = 0;
beforeAll(async () => {
  model = await randomModel();
  source = await openCheckpoint(model.dir);
  int4 = await convert();
});
afterAll(() => model.remove());

const next = (): string => path.join(model.root, `out-${count++}`);

async function convert(options: Partial<ConvertOptions> = {}): Promise<string> {
  const out = next();
  await convertFolder({ source: model.dir, out, formats: partFormats('int4'), threads: 1, ...options });
  return out;
}

/** A copy of the model with other files. */
function changed(files: Readonly<Record<string, string | Uint8Array>>): string {
  const dir = next();
  mkdirSync(dir);
  for (const name of readdirSync(model.dir)) copyFileSync(path.join(model.dir, name), path.join(dir, name));
  for (const [name, content] of Object.entries(files)) writeFileSync(path.join(dir, name), content);
  return dir;
}

/** The model's file with one value of a tensor overwritten. */
function withValue(name: string, value: number): Uint8Array {
  const { file, begin } = source.tensors.get(name)!;
  const bytes = readFileSync(file);
  bytes.writeFloatLE(value, begin + 4 * 70);
  return bytes;
}

describe('a converted folder', () => {
  it('holds rounded Linears, everything else as it was, and the tokenizer', async () => {
    const dir = int4;
    const quantization = await readQuantization(dir);
    expect(quantization?.formats).toEqual({
      decoder: 'int4',
      lm_head: 'int8',
      vision: 'int8',
      projectors: 'int8',
      interaction: 'int8',
    });
    const config = await readFusionConfig(dir);
    expect(config).toEqual(await readFusionConfig(model.dir));
    const converted = await openCheckpoint(dir);
    const { plain, rounded } = openStored(config, quantization!.formats, converted);
    expect([...plain.keys(), ...rounded.keys()].toSorted()).toEqual([...source.tensors.keys()].toSorted());
    expect(rounded.get('model.layers.0.mlp.up_proj.weight')?.bits).toBe(4);
    expect(rounded.get('lm_head.weight')?.bits).toBe(8);
    for (const { name, bits, width, codes, scales } of rounded.values()) {
      const rows = {
        codes: await converted.read(`${name}.q${bits}`),
        scales: await converted.readF32(`${name}.scales`),
      };
      expect([codes.dtype, scales.dtype]).toEqual(['U8', 'F32']);
      const values = await source.readF32(name);
      const largest = Math.max(...values.map(Math.abs));
      const errors = dequantiseRows(rows, width, bits).map((value, i) => Math.abs(value - values[i]!));
      expect(Math.max(...errors)).toBeLessThan((bits === 4 ? 0.14 : 0.005) * largest);
    }
    for (const [name, { dtype }] of plain) {
      const [got, expected] = [await converted.readF32(name), await source.readF32(name)];
      expect(dtype).toBe(name.endsWith('embed_tokens.weight') ? 'F16' : 'F32');
      const exact = dtype === 'F32' ? expected : f16ToF32(f32ToF16(expected));
      expect(got).toEqual(exact);
    }
    for (const name of ['tokenizer.json', 'tokenizer_config.json']) {
      expect(readFileSync(path.join(dir, name))).toEqual(readFileSync(path.join(model.dir, name)));
    }
  });

  it('is the same whatever the threads and the shards', async () => {
    const whole = await openCheckpoint(int4);
    const dir = await convert({ threads: 3, maxShardBytes: 50_000 });
    expect(readdirSync(dir).filter((name) => name.endsWith('.safetensors')).length).toBeGreaterThan(5);
    const sharded = await openCheckpoint(dir);
    expect([...sharded.tensors.keys()].toSorted()).toEqual([...whole.tensors.keys()].toSorted());
    for (const name of whole.tensors.keys()) {
      expect(Buffer.compare(await whole.read(name), await sharded.read(name)), name).toBe(0);
    }
  });

  it('is right in a matrix that is rounded in several pieces', async () => {
    const large = await randomModel({ vocab_size: 20_000 });
    const out = path.join(large.root, 'out');
    await convertFolder({ source: large.dir, out, formats: partFormats('int8'), threads: 2 });
    const [before, after] = [await openCheckpoint(large.dir), await openCheckpoint(out)];
    const values = await before.readF32('lm_head.weight');
    const rows = {
      codes: await after.read('lm_head.weight.q8'),
      scales: await after.readF32('lm_head.weight.scales'),
    };
    const errors = dequantiseRows(rows, 64, 8).map((value, i) => Math.abs(value - values[i]!));
    const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    expect(errors.reduce((most, error) => Math.max(most, error), 0)).toBeLessThan(0.005 * largest);
    await large.remove();
  });

  it('has each part in the format that was chosen for it', async () => {
    const formats = partFormats('int8', { vision: 'f16', projectors: 'f32', interaction: 'int4' });
    const { tensors } = await openCheckpoint(await convert({ formats }));
    const dtypeOf = (name: string) => tensors.get(name)?.dtype;
    const tower = 'model.vision_tower.vision_tower.vision_model.encoder.layers.0.mlp.fc1';
    expect(dtypeOf(`${tower}.weight`)).toBe('F16');
    expect(dtypeOf(`${tower}.bias`)).toBe('F32');
    expect(dtypeOf('model.mm_projector.0.weight')).toBe('F32');
    expect(dtypeOf('model.vision_sampler_layers.0.layers.0.proj_in.weight.q4')).toBe('U8');
    expect(dtypeOf('model.layers.0.mlp.up_proj.weight.q8')).toBe('U8');
  });

  it('reports the bytes that were read', async () => {
    const seen: number[] = [];
    let total = 0;
    await convert({
      onProgress: (event) => {
        seen.push(event.done);
        total = event.total ?? 0;
      },
    });
    expect(seen).toEqual(seen.toSorted((a, b) => a - b));
    expect(seen.at(-1)).toBe(total);
    expect(total).toBe([...source.tensors.values()].reduce((sum, { byteLength }) => sum + byteLength, 0));
  });

  it('keeps an embedding that is also the head twice: rows to look up, and rounded', async () => {
    const tied = await randomModel({ tie_word_embeddings: true });
    const out = path.join(tied.root, 'out');
    await convertFolder({ source: tied.dir, out, formats: partFormats('f16'), threads: 1 });
    const { tensors } = await openCheckpoint(out);
    expect(tensors.get('model.embed_tokens.weight')?.dtype).toBe('F16');
    expect(tensors.get('model.embed_tokens.weight.q8')?.shape).toEqual([912, 2, 32]);
    await tied.remove();
  });
});

describe('refused, with nothing left', () => {
  const leftovers = () => readdirSync(model.root).filter((name) => name.endsWith('.tmp'));

  it.each([
    [
      'a converted folder',
      async () => convert(),
      partFormats('int4'),
      /as it was trained, got a converted one/,
    ],
    ['a folder without a model', async () => model.root, partFormats('int8'), /config.json/],
    [
      'a weight that is no number',
      async () =>
        changed({ 'model.safetensors': withValue('model.layers.3.mlp.up_proj.weight', Number.NaN) }),
      partFormats('int4'),
      /model.layers.3.mlp.up_proj.weight: expected finite numbers, got NaN at \[1, 6\]/,
    ],
    [
      'a weight beyond F16',
      async () => changed({ 'model.safetensors': withValue('model.layers.3.mlp.up_proj.weight', 1e6) }),
      partFormats('f16'),
      /model.layers.3.mlp.up_proj.weight: expected finite numbers below 65504/,
    ],
  ])('%s', async (_what, make, formats, message) => {
    const from = await make();
    const out = next();
    await expect(convertFolder({ source: from, out, formats, threads: 1 })).rejects.toThrow(message);
    expect(readdirSync(model.root)).not.toContain(path.basename(out));
    expect(leftovers()).toEqual([]);
  });

  it('a converted folder where one as it was trained is needed', async () => {
    const config = await readFusionConfig(int4);
    const checkpoint = await openCheckpoint(int4);
    expect(() => validateTensors(config, checkpoint)).toThrow(/as it was trained, got a converted one/);
  });

  it('a folder with something in it', async () => {
    await expect(convert({ out: model.dir })).rejects.toThrow(/expected a new or an empty folder/);
  });

  it('what is stopped on the way', async () => {
    const out = next();
    let events = 0;
    const onProgress = () => {
      events += 1;
      if (events === 20) throw new Error('stopped');
    };
    await expect(convert({ out, onProgress })).rejects.toThrow('stopped');
    expect(readdirSync(model.root)).not.toContain(path.basename(out));
    expect(leftovers()).toEqual([]);
  });

  it.each([
    [
      { version: 2, block: 32, formats: {} },
      /fusion_quantization: expected version 1 .*, got version 2.*convert the model again/,
    ],
    [
      { version: 1, block: 64, formats: {} },
      /expected version 1 with blocks of 32, got version 1 with blocks of 64/,
    ],
    [
      { version: 1, block: 32, formats: { decoder: 'int3' } },
      /formats.decoder: expected one of int4, .*, got "int3"/,
    ],
    [[], /expected an object/],
  ])('a section of another version: %j', (section, message) => {
    expect(() => parseQuantization({ fusion_quantization: section }, 'config.json')).toThrow(message);
  });

  it('a folder whose tensors are not those of its config.json', async () => {
    const dir = int4;
    const config = await readFusionConfig(dir);
    const checkpoint = await openCheckpoint(dir);
    expect(() => openStored(config, partFormats('int8'), checkpoint)).toThrow(
      /model.layers.0.self_attn.q_proj.weight.q8: expected U8 \[64, 2, 32\], got none; convert the model again/,
    );
    const extra = new Map([...checkpoint.tensors, ['stranger', source.tensors.get('model.norm.weight')!]]);
    expect(() => openStored(config, partFormats('int4'), { ...checkpoint, tensors: extra })).toThrow(
      /got stranger/,
    );
  });
});

describe('the cache', () => {
  const made: string[] = [];
  const notes: string[] = [];
  const get = (dir: string, label: 'f16' | 'f32' = 'f16') =>
    convertedFolder(dir, {
      label,
      formats: partFormats(label),
      threads: 1,
      onNote: (text) => notes.push(text),
    });
  beforeAll(() => {
    process.env.FUSION_CACHE = path.join(model.root, 'cache');
  });
  afterAll(() => {
    delete process.env.FUSION_CACHE;
  });

  it('converts once for each content and format', async () => {
    const dir = changed({});
    made.push(await get(dir), await get(dir));
    expect(made[1]).toBe(made[0]);
    expect(path.dirname(made[0]!)).toBe(path.join(model.root, 'cache/converted'));
    expect(notes).toEqual([`${dir}: converting to f16 once, into ${made[0]}`]);
    expect(await get(dir, 'f32')).not.toBe(made[0]);
    utimesSync(path.join(dir, 'model.safetensors'), 1, 1);
    expect(await get(dir)).not.toBe(made[0]);
    expect(notes).toHaveLength(3);
  });

  it('gives two at once the same folder', async () => {
    const dir = changed({});
    const [a, b] = await Promise.all([get(dir), get(dir)]);
    expect(a).toBe(b);
    expect((await openCheckpoint(a)).tensors.size).toBe(source.tensors.size);
  });

  it('never takes what a killed process left, and removes it', async () => {
    const dir = changed({});
    const key = path.basename(await get(dir));
    const left = path.join(model.root, 'cache/converted', `${key}.999999999.00c0ffee.tmp`);
    mkdirSync(left);
    writeFileSync(path.join(left, 'config.json'), '{}');
    const again = changed({});
    utimesSync(path.join(again, 'config.json'), 5, 5);
    await get(again);
    expect(readdirSync(path.dirname(left))).toContain(path.basename(left));
    rmSync(path.join(path.dirname(left), key), { recursive: true });
    await get(dir);
    expect(readdirSync(path.dirname(left))).not.toContain(path.basename(left));
  });

  it('is where the environment says', () => {
    expect(cacheFolder({ FUSION_CACHE: '/a' })).toBe('/a/converted');
    expect(cacheFolder({ XDG_CACHE_HOME: '/b' })).toBe('/b/fusion-vl/converted');
    expect(cacheFolder({})).toMatch(/\.cache\/fusion-vl\/converted$/);
  });
});
