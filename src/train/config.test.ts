import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { UserError } from '../common/errors.ts';
import {
  decays,
  diffConfigs,
  isTrainable,
  learningRateFor,
  readTrainConfig,
  recipesOf,
  resolveConfig,
  showConfig,
  unusedPatterns,
} from './config.ts';

const FILE = '/runs/a.yaml';
const LEAST = `name: a
stage: 1
data: sets/all.yaml
learning_rates: [['.*', 2e-5]]
batch_size: 4
max_length: 512
`;
const only = (text: string) => resolveConfig(text, FILE)[0]!;
const shipped = (name: string) => fileURLToPath(new URL(`../../configs/train/${name}.yaml`, import.meta.url));

const TOWER = 'model.vision_tower.vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight';
const PROJECTOR = 'model.mm_projector.0.weight';
const INTERACTION = 'model.vision_sampler_layers.0.layers.0.proj_in.weight';
const DECODER = 'model.layers.3.self_attn.q_proj.weight';
const EMBEDDINGS = 'model.embed_tokens.weight';
const HEAD = 'lm_head.weight';
const LORA = 'base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight';
const NAMES = [TOWER, PROJECTOR, INTERACTION, DECODER, EMBEDDINGS, HEAD];

describe('resolveConfig', () => {
  it('fills in what a stage leaves out', () => {
    expect(only(LEAST)).toEqual({
      name: 'a',
      stage: '1',
      data: '/runs/sets/all.yaml',
      learning_rates: [['.*', 2e-5]],
      mode: 'full',
      freeze: [],
      batch_size: 4,
      accumulation: 1,
      max_length: 512,
      epochs: 1,
      schedule: 'cosine',
      warmup_ratio: 0.03,
      weight_decay: 0,
      clip_norm: 1,
      mapping_loss_weight: 0.1,
      precision: 'f32',
      recompute: false,
      seed: 42,
      save_every: 500,
      log_every: 10,
      group_by_modality_length: false,
      skip_limit: 0.01,
    });
  });

  it('takes recipes in turn', () => {
    const stage = only(
      LEAST.replace('sets/all.yaml', '{synth: [{categories: [A], count: 3}, {categories: [B], count: 5}]}'),
    );
    const { synth } = stage.data as Exclude<typeof stage.data, string>;
    expect(recipesOf(synth).map(({ count }) => count)).toEqual([3, 5]);
    expect(resolveConfig(showConfig([stage]), FILE)).toEqual([stage]);
    expect(recipesOf({ categories: ['A'], count: 3 })).toEqual([{ categories: ['A'], count: 3 }]);
  });

  it('takes a synthetic recipe, and LoRA with its published numbers', () => {
    const stage = only(
      `${LEAST.replace('sets/all.yaml', '{synth: {categories: {Color: 2, Count: 1}, count: 100, max_objects: 3}}')}mode: lora`,
    );
    expect(stage.data).toEqual({ synth: { categories: { Color: 2, Count: 1 }, count: 100, max_objects: 3 } });
    expect(stage.lora).toMatchObject({ rank: 64, alpha: 16, dropout: 0.05 });
    const target = new RegExp(stage.lora!.targets[0]!);
    expect([DECODER, TOWER, HEAD].map((name) => target.test(name))).toEqual([true, false, false]);
  });

  it('shares defaults among stages', () => {
    const text = `seed: 7
epochs: 2
batch_size: 4
max_length: 512
learning_rates: [['.*', 1e-3]]
data: d.yaml
stages:
  - {name: a, stage: '1'}
  - {name: b, stage: 1.5, seed: 8, max_steps: 30}
`;
    const [a, b] = resolveConfig(text, FILE);
    expect(a).toMatchObject({ stage: '1', seed: 7, epochs: 2 });
    expect(b).toMatchObject({ stage: '1.5', seed: 8, max_steps: 30 });
    expect([a?.max_steps, b?.epochs]).toEqual([undefined, undefined]);
  });

  it('reads back what showConfig writes', () => {
    const lora = only(`${LEAST}mode: lora\nfreeze: [x]\nquery_lens: [4, 16]`);
    const adapters = only(LEAST.replace('stage: 1', 'stage: 1.50\nmode: adapters'));
    expect(resolveConfig(showConfig([lora]), '/elsewhere/b.yaml')).toEqual([lora]);
    expect(resolveConfig(showConfig([lora, adapters]), '/elsewhere/b.yaml')).toEqual([lora, adapters]);
  });

  it.each([
    [
      'an unknown key',
      `${LEAST}learning_rate: 1`,
      'a.yaml:7: learning_rate: unknown key; did you mean learning_rates?',
    ],
    [
      'a key far from any',
      `${LEAST}zzzzzzzzzz: 1`,
      /a\.yaml:7: zzzzzzzzzz: unknown key; known are name, stage, data,/,
    ],
    [
      'one in lora',
      `${LEAST}mode: lora\nlora:\n  rnak: 8`,
      'a.yaml:9: lora.rnak: unknown key; did you mean rank?',
    ],
    [
      'one in a recipe',
      LEAST.replace('sets/all.yaml', '\n  synth:\n    categories: [A]\n    coutn: 3\n    count: 1'),
      'a.yaml:6: data.synth.coutn: unknown key; did you mean count?',
    ],
    ['one beside stages', `stage: 1\nstaegs: []`, 'a.yaml:2: staegs: unknown key; did you mean stages?'],
    [
      'one in a stage',
      `${LEAST.replace('stage: 1\n', '')}stages:\n  - stage: 1\n  - stage: 2\n    batchsize: 3`,
      'a.yaml:9: stages[1].batchsize: unknown key; did you mean batch_size?',
    ],
    [
      'a missing key',
      LEAST.replace('max_length: 512\n', ''),
      'a.yaml:1: max_length: expected an integer from 8 to',
    ],
    [
      'a missing key of a stage',
      `${LEAST.replace('max_length: 512\n', '').replace('stage: 1\n', '')}stages:\n  - stage: 1`,
      /a\.yaml:6: stages\[0\]\.max_length: expected an integer from 8 to 2147483647, got nothing/,
    ],
    [
      'a wrong shared key, where it stands',
      `batch_size: x\nstages:\n  - ${LEAST.replace('batch_size: 4\n', '').trim().replaceAll('\n', '\n    ')}`,
      'a.yaml:1: batch_size: expected an integer from 1 to 65536, got "x"',
    ],
    [
      'a bad pattern',
      `${LEAST}freeze:\n  - a\n  - '('`,
      'a.yaml:9: freeze[1]: expected a regular expression on tensor names, got "("',
    ],
    [
      'a bad rate',
      LEAST.replace('2e-5', 'fast'),
      'a.yaml:4: learning_rates[0][1]: expected a number from 0 to 1, got "fast"',
    ],
    [
      'no pair',
      LEAST.replace("['.*', 2e-5]", '2e-5'),
      'learning_rates[0]: expected a pair [pattern, learning rate], got 0.00002',
    ],
    [
      'no square',
      `${LEAST}query_lens: [4, 5]`,
      'a.yaml:7: query_lens[1]: expected a perfect square from 1 to 4096 (1, 4, 16, 36, …), got 5',
    ],
    [
      'both lengths',
      `${LEAST}epochs: 1\nmax_steps: 3`,
      'a.yaml:8: max_steps: expected epochs or max_steps, got both',
    ],
    ['lora alone', `${LEAST}lora: {}`, 'a.yaml:7: lora: expected lora only with mode: lora, got mode: full'],
    [
      'objects the wrong way round',
      LEAST.replace('sets/all.yaml', '{synth: {categories: [A], count: 1, min_objects: 4, max_objects: 2}}'),
      'a.yaml:3: data.synth.max_objects: expected at least min_objects 4, got 2',
    ],
    [
      'objects the wrong way round in a curriculum',
      LEAST.replace(
        'sets/all.yaml',
        '\n  synth:\n    - {categories: [A], count: 1}\n    - {categories: [A], count: 1, min_objects: 4, max_objects: 2}',
      ),
      'a.yaml:6: data.synth[1].max_objects: expected at least min_objects 4, got 2',
    ],
    [
      'a mistyped key in a curriculum',
      LEAST.replace('sets/all.yaml', '\n  synth:\n    - categories: [A]\n      coutn: 3\n      count: 1'),
      'a.yaml:6: data.synth[0].coutn: unknown key; did you mean count?',
    ],
    [
      'an empty curriculum',
      LEAST.replace('sets/all.yaml', '{synth: []}'),
      'a.yaml:3: data.synth: expected a list of recipes, got []',
    ],
    [
      'another mode',
      `${LEAST}mode: ful`,
      'a.yaml:7: mode: expected full or adapters or frozen_tower or frozen_decoder or lora, got "ful"',
    ],
    [
      'bf16',
      `${LEAST}precision: bf16`,
      'a.yaml:7: precision: expected f32 (nothing else is supported yet), got "bf16"',
    ],
    [
      'no data',
      LEAST.replace('sets/all.yaml', '[]'),
      "a.yaml:3: data: expected the path of a data set's YAML, or synth: and a recipe, got []",
    ],
    ['a key twice', `${LEAST}seed: 1\nseed: 2`, 'a.yaml:8: expected YAML, got: Map keys must be unique'],
    ['an unknown tag', `${LEAST}seed: !big 1`, 'a.yaml:7: expected YAML, got: Unresolved tag: !big'],
    ['no keys', '- 1', 'a.yaml:1: expected the keys of a stage, got [1]'],
    ['nothing', '', 'a.yaml:1: expected the keys of a stage, got null'],
    ['no stages', 'stages: []', 'a.yaml:1: stages: expected a list of stages, got []'],
    ['a label twice', `${LEAST}stages: [{}, {}]`, 'expected a label of its own, got 1 again'],
  ])('refuses %s', (_, text, message) => {
    expect(() => resolveConfig(text, FILE)).toThrow(UserError);
    expect(() => resolveConfig(text, FILE)).toThrow(message);
  });
});

describe('the shipped configurations', () => {
  it.each([
    ['stage1', '1', 256, 2e-5, 2e-5, 2048],
    ['stage1.5', '1.5', 128, 2e-5, 2e-6, 4096],
    ['stage2', '2', 128, 1e-5, 1e-6, 4096],
  ])('%s has the published numbers', async (name, label, batch, rate, towerRate, length) => {
    const stages = await readTrainConfig(shipped(name));
    expect(stages).toHaveLength(1);
    const stage = stages[0]!;
    expect(stage).toMatchObject({
      stage: label,
      max_length: length,
      epochs: 1,
      schedule: 'cosine',
      warmup_ratio: 0.03,
      weight_decay: 0,
      clip_norm: 1,
      mapping_loss_weight: 0.1,
      freeze: [],
    });
    expect(stage.batch_size * stage.accumulation).toBe(batch);
    expect(learningRateFor(DECODER, stage)).toBe(rate);
    expect(learningRateFor(TOWER, stage)).toBe(towerRate);
    expect(unusedPatterns(stage, NAMES)).toEqual([]);
    expect(path.isAbsolute(stage.data as string)).toBe(true);
  });

  it('names a file that is missing', async () => {
    await expect(readTrainConfig('/none.yaml')).rejects.toThrow(/^\/none\.yaml: ENOENT/);
  });
});

describe('rules by tensor name', () => {
  it.each([
    ['full', NAMES],
    ['adapters', [PROJECTOR, INTERACTION]],
    ['frozen_tower', [PROJECTOR, INTERACTION, DECODER, EMBEDDINGS, HEAD]],
    ['frozen_decoder', [TOWER, PROJECTOR, INTERACTION]],
    ['lora', []],
  ])('%s trains its part', (mode, trained) => {
    const stage = only(`${LEAST}mode: ${mode}`);
    expect(NAMES.filter((name) => isTrainable(name, stage))).toEqual(trained);
    expect(isTrainable(LORA, stage)).toBe(mode === 'full' || mode === 'lora' || mode.startsWith('frozen'));
  });

  it('takes the first rate that matches, 0 where frozen', () => {
    const stage = only(
      `${LEAST.replace("['.*', 2e-5]", "[mm_projector, 1e-3], ['^model', 1e-4]")}freeze: [embed]`,
    );
    expect(learningRateFor(PROJECTOR, stage)).toBe(1e-3);
    expect(learningRateFor(DECODER, stage)).toBe(1e-4);
    expect(learningRateFor(EMBEDDINGS, stage)).toBe(0);
    expect(() => learningRateFor(HEAD, stage)).toThrow(
      /stage 1: learning_rates: expected a pattern for lm_head\.weight/,
    );
  });

  it('decays matrices alone', () => {
    expect(decays(DECODER, [8, 8])).toBe(true);
    expect(decays('a.patch_embedding.weight', [8, 3, 2, 2])).toBe(true);
    expect(decays('model.norm.weight', [8])).toBe(false);
    expect(decays('a.bias', [8])).toBe(false);
  });

  it('tells of patterns that match nothing', () => {
    const stage = only(`${LEAST}mode: lora\nfreeze: [vison_tower, lm_head]\nlora: {targets: [q_prj]}`);
    expect(unusedPatterns(stage, NAMES)).toEqual(['vison_tower', 'q_prj']);
  });
});

describe('diffConfigs', () => {
  const saved = only(`${LEAST}freeze: [a]`);

  it('finds nothing between equal configurations', () => {
    expect(diffConfigs(saved, only(`freeze: [a]\n${LEAST}`))).toEqual([]);
  });

  it('says what changed, came and went', () => {
    const current = only(`${LEAST.replace('2e-5', '1e-5')}freeze: [a, b]\nmax_steps: 9\nseed: 1`);
    expect(diffConfigs(saved, current).toSorted()).toEqual([
      'epochs: was 1, is nothing',
      'freeze[1]: was nothing, is "b"',
      'learning_rates[0][1]: was 0.00002, is 0.00001',
      'max_steps: was nothing, is 9',
      'seed: was 42, is 1',
    ]);
  });

  it('compares a path with a recipe whole', () => {
    const recipe = only(LEAST.replace('sets/all.yaml', '{synth: {categories: [A], count: 1}}'));
    expect(diffConfigs(saved, { ...recipe, freeze: ['a'] })).toEqual([
      'data: was "/runs/sets/all.yaml", is {"synth":{"categories":["A"],"count":1}}',
    ]);
  });
});
