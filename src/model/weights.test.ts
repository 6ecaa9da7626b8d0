import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { openCheckpoint } from '../checkpoint/folder.ts';
import { UserError } from '../common/errors.ts';
import { type FusionConfig, readFusionConfig } from './config.ts';
import {
  expectedTensors,
  fromSiglipName,
  optionalTensors,
  partOf,
  type TensorTable,
  toSiglipName,
  validateTensors,
} from './weights.ts';

const GOLDEN = fileURLToPath(new URL('../../test/fixtures/golden/', import.meta.url));
const NAMES = ['llama-small', 'llama-siglip', 'phi3-siglip2'];
const SMALL = path.join(GOLDEN, 'llama-small');
const config = await readFusionConfig(SMALL);
const small = await openCheckpoint(SMALL);

type Tensors = Map<string, { dtype: 'F32' | 'I32'; shape: readonly number[] }>;

/** llama-small's table, changed by `edit`. */
function changed(edit: (tensors: Tensors) => void): TensorTable {
  const tensors: Tensors = new Map(
    [...small.tensors].map(([name, { shape }]) => [name, { dtype: 'F32', shape }]),
  );
  edit(tensors);
  return { dir: 'dir', tensors };
}

const validated = (table: TensorTable, c: FusionConfig = config) => {
  try {
    validateTensors(c, table);
    return 'valid';
  } catch (error) {
    expect(error).toBeInstanceOf(UserError);
    return (error as Error).message;
  }
};

const NORM = 'model.norm.weight';
const POST = 'model.vision_tower.vision_tower.vision_model.post_layernorm.weight';

describe('expectedTensors', () => {
  it.each(NAMES)('is what %s holds, beside the unused', async (name) => {
    const dir = path.join(GOLDEN, name);
    const ofConfig = await readFusionConfig(dir);
    const { tensors } = await openCheckpoint(dir);
    const known = new Map([...expectedTensors(ofConfig), ...optionalTensors(ofConfig)]);
    expect(Object.fromEntries(known)).toEqual(
      Object.fromEntries([...tensors].map(([key, { shape }]) => [key, shape])),
    );
  });

  it('follows the projector type and tied embeddings', () => {
    const shapes = (c: FusionConfig) =>
      [...expectedTensors(c)]
        .filter(([key]) => /projector|lm_head/.test(key))
        .map(([key, shape]) => `${key} ${shape}`);
    expect(
      shapes({
        ...config,
        decoder: { ...config.decoder, tiedEmbeddings: true },
        projectorType: { kind: 'linear', depth: 1 },
      }),
    ).toEqual([
      'model.mm_projector.weight 64,96',
      'model.mm_projector.bias 64',
      'model.aux_projector.weight 32,64',
      'model.aux_projector.bias 32',
    ]);
    expect(shapes({ ...config, projectorType: { kind: 'mlp', depth: 3 } })).toContain(
      'model.aux_projector.4.weight 32,32',
    );
  });
});

describe('validateTensors', () => {
  it.each(NAMES)('accepts %s', async (name) => {
    const dir = path.join(GOLDEN, name);
    validateTensors(await readFusionConfig(dir), await openCheckpoint(dir));
  });

  it('accepts a checkpoint without the unused norm', () => {
    expect(validated(changed((t) => t.delete(POST)))).toBe('valid');
  });

  it.each<[string, (t: Tensors) => void, string]>([
    ['a missing tensor', (t) => t.delete(NORM), 'got 197: 1 missing (model.norm.weight [64])'],
    ['an extra tensor', (t) => t.set('x', { dtype: 'F32', shape: [1] }), 'got 199: 1 not of this model (x)'],
    [
      'another shape',
      (t) => t.set(NORM, { dtype: 'F32', shape: [64, 1] }),
      'got 198: 1 of another shape (model.norm.weight expected [64], got [64, 1])',
    ],
    [
      'another shape of the same rank',
      (t) => t.set('lm_head.weight', { dtype: 'F32', shape: [64, 512] }),
      'got 198: 1 of another shape (lm_head.weight expected [512, 64], got [64, 512])',
    ],
    [
      'the unused in another shape',
      (t) => t.set(POST, { dtype: 'F32', shape: [1] }),
      `got 198: 1 of another shape (${POST} expected [32], got [1])`,
    ],
    [
      'integers',
      (t) => t.set(NORM, { dtype: 'I32', shape: [64] }),
      'got 198: 1 of another dtype (model.norm.weight expected F32, F16 or BF16, got I32)',
    ],
    [
      'a tensor of another name',
      (t) => t.delete(NORM) && t.set('norm.weight', { dtype: 'F32', shape: [64] }),
      'got 198: 1 missing (model.norm.weight [64]); 1 not of this model (norm.weight)',
    ],
  ])('names %s', (_, edit, message) => {
    expect(validated(changed(edit))).toBe(`dir: expected the 196 tensors config.json describes, ${message}`);
  });

  it('lists the first three and counts all, on one line', () => {
    const message = validated(changed((t) => t.clear()));
    expect(message).toMatch(
      /got 0: 196 missing \(model.embed_tokens.weight \[512, 64\], [^,]* \[32, 3, 8, 8\], [^,]* \[32\], …\)$/,
    );
  });

  it('refuses the last pretrained layer and a head beside tied embeddings', () => {
    const layer = 'model.vision_tower.vision_tower.vision_model.encoder.layers.6.layer_norm1.bias';
    expect(validated(changed((t) => t.set(layer, { dtype: 'F32', shape: [32] })))).toContain(
      `1 not of this model (${layer})`,
    );
    const tied = { ...config, decoder: { ...config.decoder, tiedEmbeddings: true } };
    expect(
      validated(
        changed(() => {}),
        tied,
      ),
    ).toContain('1 not of this model (lm_head.weight)');
  });
});

describe('partOf', () => {
  it('knows every tensor of a checkpoint', () => {
    const counts: Record<string, number> = {};
    for (const name of small.tensors.keys())
      counts[String(partOf(name))] = (counts[String(partOf(name))] ?? 0) + 1;
    expect(counts).toEqual({
      vision_tower: 3 + 6 * 16 + 2,
      mm_projector: 4,
      aux_projector: 4,
      interaction: 2 * 16,
      decoder: 6 * 9 + 1,
      embeddings: 1,
      lm_head: 1,
    });
    expect(partOf('model.other.weight')).toBeUndefined();
  });
});

describe('SigLIP names', () => {
  it('are the vision tower’s, both ways', () => {
    const tower = [...small.tensors.keys()].filter((name) => partOf(name) === 'vision_tower');
    for (const name of tower) expect(fromSiglipName(toSiglipName(name) ?? '', 6)).toBe(name);
    expect(toSiglipName('model.norm.weight')).toBeUndefined();
    expect(fromSiglipName('vision_model.embeddings.patch_embedding.bias', 6)).toBe(
      'model.vision_tower.vision_tower.vision_model.embeddings.patch_embedding.bias',
    );
  });

  it.each([
    'vision_model.encoder.layers.6.layer_norm1.bias',
    'vision_model.encoder.layers.10.layer_norm1.bias',
    'vision_model.head.probe',
    'text_model.encoder.layers.0.layer_norm1.bias',
    'logit_scale',
  ])('leave out %s', (name) => {
    expect(fromSiglipName(name, 6)).toBeUndefined();
  });
});
