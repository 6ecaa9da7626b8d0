/** What each training mode changes and what it leaves alone, and that it learns: from data to checkpoint. */
import { cpSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { adapterTensors } from '../src/checkpoint/adapters.ts';
import { openCheckpoint } from '../src/checkpoint/folder.ts';
import { openSafetensors, writeSafetensors } from '../src/checkpoint/safetensors.ts';
import { loadModel } from '../src/generate/model.ts';
import { program } from '../src/graph/index.ts';
import { lossOutputs, traceForward } from '../src/model/programs.ts';
import { END_OF_QUESTION, IGNORE, IMAGE, LATENT } from '../src/model/sentinels.ts';
import { openDevice } from '../src/runtime/device.ts';
import type { Device } from '../src/runtime/types.ts';
import { type EncodedSample, makeBatch } from '../src/train/batch.ts';
import { resolveConfig, type StageConfig } from '../src/train/config.ts';
import { loraOverlay } from '../src/train/loraStage.ts';
import { mergeFolder } from '../src/train/mergeFolder.ts';
import { trainStages } from '../src/train/runStages.ts';
import type { SampleSource } from '../src/train/source.ts';
import { type ModelSource, openStageModel } from '../src/train/stageModel.ts';
import { type TrainResult, train } from '../src/train/train.ts';
import { type SmallBase, smallBase } from './support/smallBase.ts';

let device: Device;
let small: SmallBase;
let made = 0;
const folder = (name: string) => {
  const dir = path.join(small.dir, `${name}-${made++}`);
  mkdirSync(dir);
  return dir;
};

beforeAll(async () => {
  device = await openDevice('cpu', { threads: 2 });
  small = await smallBase();
});
afterAll(async () => {
  await device.close();
  small.remove();
});

/** A stage's YAML; keys of `changes` come on top. */
function yaml(changes: Readonly<Record<string, unknown>>): string {
  return JSON.stringify({
    name: 'modes',
    stage: '1',
    data: { synth: { categories: ['MultiChoice', 'ConvShort'], count: 64, size: 32 } },
    learning_rates: [['.*', 3e-3]],
    batch_size: 2,
    max_length: 256,
    max_steps: 4,
    warmup_ratio: 0,
    log_every: 1,
    save_every: 2,
    ...changes,
  });
}

const stageOf = (changes: Readonly<Record<string, unknown>>): StageConfig =>
  resolveConfig(yaml(changes), path.join(small.dir, 'modes.yaml'))[0]!;

/** Eight pictures of one colour each, one question, and the answer `answerOf(i)`: two tokens and the end. */
function eightSamples(answerOf: (i: number) => number): readonly EncodedSample[] {
  const side = 32;
  return Array.from({ length: 8 }, (_, i) => {
    const answer = [30 + answerOf(i), 50 + answerOf(i), 2];
    const question = [1, 10, LATENT, 11, 10, IMAGE, 11, 12, 13];
    const crops = Float32Array.from({ length: 5 * 3 * side * side }, (_, n) =>
      (i >> (Math.floor(n / side ** 2) % 3)) & 1 ? 1 : -1,
    );
    return {
      id: String(i),
      inputIds: Int32Array.of(...question, ...answer),
      labels: Int32Array.of(...question.slice(1).map(() => IGNORE), END_OF_QUESTION, ...answer),
      instructs: Int32Array.of(12, 13),
      crops,
    };
  });
}

/** The same samples at every step. */
const repeated = (samples: readonly EncodedSample[]): SampleSource => ({
  count: samples.length,
  batchesPerEpoch: 1,
  next: async () => samples,
  state: () => ({}),
  restore: () => {},
  close: async () => {},
});

async function trainOn(
  stage: StageConfig,
  base: string,
  samples: readonly EncodedSample[],
): Promise<TrainResult> {
  const { config, weights, lora } = await openStageModel(device, stage, { base });
  const options = {
    device,
    config,
    weights,
    lora,
    stage,
    source: repeated(samples),
    out: folder('fit'),
    base,
  };
  const result = await train(options);
  await device.free(Object.values(weights));
  return result;
}

/** The bytes of each tensor of a checkpoint. */
async function tensorsOf(dir: string): Promise<ReadonlyMap<string, string>> {
  const { tensors, read } = await openCheckpoint(dir);
  const all = new Map<string, string>();
  for (const name of tensors.keys()) all.set(name, Buffer.from(await read(name)).toString('base64'));
  return all;
}

const optimizerNames = async (checkpoint: string): Promise<readonly string[]> => {
  const { tensors } = await openSafetensors(path.join(checkpoint, 'optimizer.safetensors'));
  return [...tensors.keys()].filter((name) => name.startsWith('first.')).map((name) => name.slice(6));
};

describe('over-fitting eight samples', () => {
  let trained = '';

  it('brings the loss below 5% of its start in mode full, from random weights', async () => {
    const stage = stageOf({ max_steps: 80, save_every: 1000 });
    const { rows, checkpoint } = await trainOn(
      stage,
      small.base,
      eightSamples((i) => i),
    );
    trained = checkpoint;
    expect(rows.at(-1)!.loss / rows[0]!.loss).toBeLessThan(0.05);
  });

  // A random model's frozen rest cannot use what its adapters say, so these begin with the model above, which knows
  // the pictures by other answers.
  it.each([
    ['adapters', {}],
    ['lora', { lora: { rank: 16, alpha: 32 } }],
  ])('brings it there in mode %s, from that model with other answers', async (mode, changes) => {
    const rates = { learning_rates: [['.*', 1e-2]] };
    const stage = stageOf({ mode, ...changes, ...rates, max_steps: 50, save_every: 1000 });
    const { rows } = await trainOn(
      stage,
      trained,
      eightSamples((i) => (i + 3) % 8),
    );
    expect(rows[0]!.loss).toBeGreaterThan(3);
    expect(rows.at(-1)!.loss / rows[0]!.loss).toBeLessThan(0.05);
  });
});

describe('what a mode trains', () => {
  const parts = {
    adapters: /^model\.(mm_projector|aux_projector|vision_sampler_layers)\./,
    frozen_tower: /^(?!model\.vision_tower\.)/,
    frozen_decoder: /^(?!model\.(embed_tokens|layers|norm)\.|lm_head\.)/,
  };

  it.each(Object.entries(parts))('%s: these tensors and no others, bit for bit', async (mode, trains) => {
    const stage = stageOf({ mode, max_steps: 2 });
    const { checkpoint } = await trainOn(
      stage,
      small.base,
      eightSamples((i) => i),
    );
    const [before, after] = [await tensorsOf(small.base), await tensorsOf(checkpoint)];
    const changed = [...before].filter(([name, bytes]) => after.get(name) !== bytes).map(([name]) => name);
    const expected = [...before.keys()].filter((name) => trains.test(name) && !unused(name));
    expect(after.size).toBe(before.size);
    expect(changed.filter((name) => !trains.test(name))).toEqual([]);
    expect(expected.filter((name) => !changed.includes(name))).toEqual([]);
    expect((await optimizerNames(checkpoint)).toSorted()).toEqual(
      [...before.keys()].filter((name) => trains.test(name)).sort(),
    );
  });
});

describe('recompute', () => {
  it.each(['full', 'lora'])('changes no number in mode %s', async (mode) => {
    const [kept, again] = await Promise.all(
      [false, true].map((recompute) =>
        trainOn(
          stageOf({ mode, recompute, max_steps: 3 }),
          small.base,
          eightSamples((i) => i),
        ),
      ),
    );
    for (const [i, row] of kept!.rows.entries()) {
      // AdamW divides a gradient by its own size, so that from the second step on what was rounding in a small one is not.
      const [loss, norm] = i === 0 ? [1e-9, 1e-7] : [1e-5, 1e-4];
      expect(Math.abs(again!.rows[i]!.loss / row.loss - 1)).toBeLessThan(loss);
      expect(Math.abs(again!.rows[i]!.grad_norm / row.grad_norm - 1)).toBeLessThan(norm);
    }
  });
});

/** Adding one number to all keys changes no softmax, so a key's bias has no gradient but rounding. */
const unused = (name: string): boolean => /k_proj\.bias$/.test(name);

describe('LoRA', () => {
  const LORA = { mode: 'lora', lora: { rank: 4, alpha: 8 }, learning_rates: [['.*', 1e-2]] };
  let out = '';
  let checkpoint = '';
  let configFile = '';

  const stages = (to: string, resume: boolean, signal?: AbortSignal, onLog?: (step: number) => void) =>
    trainStages({
      device,
      configFile,
      base: small.base,
      out: to,
      resume,
      signal,
      environment: {},
      onLog: ({ step }) => onLog?.(step),
    });

  beforeAll(async () => {
    out = folder('lora');
    configFile = path.join(small.dir, 'lora.yaml');
    writeFileSync(configFile, yaml(LORA));
    checkpoint = await stages(out, false);
  });

  it("saves PEFT's files and no model, with moments of the factors alone", async () => {
    const files = readdirSync(checkpoint);
    expect(files).toEqual(expect.arrayContaining(['adapter_model.safetensors', 'adapter_config.json']));
    expect(files.filter((name) => /^(model.*safetensors|config\.json)$/.test(name))).toEqual([]);
    const { tensors } = await openSafetensors(path.join(checkpoint, 'adapter_model.safetensors'));
    expect((await optimizerNames(checkpoint)).toSorted()).toEqual([...tensors.keys()].toSorted());
    const config = JSON.parse(readFileSync(path.join(checkpoint, 'adapter_config.json'), 'utf8'));
    const expected = { r: 4, lora_alpha: 8, lora_dropout: 0.05, base_model_name_or_path: small.base };
    expect(config).toMatchObject(expected);
  });

  it('resumes exactly, dropout included', async () => {
    const resumed = folder('resumed');
    const stop = new AbortController();
    await stages(resumed, false, stop.signal, (step) => step === 2 && stop.abort());
    expect(readdirSync(path.join(resumed, 'stage-1'))).not.toContain('checkpoint-4');
    const last = await stages(resumed, true);
    for (const file of ['adapter_model.safetensors', 'optimizer.safetensors', 'data_state.json']) {
      expect(
        readFileSync(path.join(last, file)).equals(readFileSync(path.join(checkpoint, file))),
        file,
      ).toBe(true);
    }
  });

  it('refuses to resume on another base', async () => {
    const stage = resolveConfig(yaml(LORA), configFile)[0]!;
    const other = folder('other');
    cpSync(small.base, other, { recursive: true });
    await expect(openStageModel(device, stage, { base: other, saved: checkpoint })).rejects.toThrow(
      `was trained on ${small.base}, got ${other}; go on with --allow-changes`,
    );
  });

  it('refuses an adapter where a whole model is expected', async () => {
    await expect(openStageModel(device, stageOf({}), { base: checkpoint })).rejects.toThrow(
      `fusion merge BASE ${checkpoint} --out DIR`,
    );
  });

  it("merged, has the adapter model's loss and not the base's", async () => {
    const merged = path.join(small.dir, 'merged');
    await mergeFolder({ base: small.base, adapter: checkpoint, out: merged });
    const off = stageOf({ ...LORA, lora: { rank: 4, alpha: 8, dropout: 0 } });
    const adapted = await lossOf(off, { base: small.base, saved: checkpoint });
    const whole = await lossOf(stageOf({}), { base: merged });
    const base = await lossOf(stageOf({}), { base: small.base });
    expect(Math.abs(adapted - whole)).toBeLessThan(1e-5 * whole);
    expect(Math.abs(base - whole)).toBeGreaterThan(0.01);
    const model = await loadModel(merged, { device });
    await model.dispose();
  });

  it('leaves a merged model to the stage after it', async () => {
    const two = path.join(small.dir, 'two.yaml');
    const {
      stage: _label,
      mode: _mode,
      lora: _lora,
      ...shared
    } = JSON.parse(yaml({ ...LORA, max_steps: 1 }));
    const list = [
      { stage: '1', mode: 'lora', lora: LORA.lora },
      { stage: '2', mode: 'adapters' },
    ];
    writeFileSync(two, JSON.stringify({ ...shared, stages: list }));
    const to = folder('two');
    const last = await trainStages({
      device,
      configFile: two,
      base: small.base,
      out: to,
      resume: false,
      environment: {},
    });
    const decoder = 'model.layers.0.self_attn.q_proj.weight';
    const [base, merged, after] = await Promise.all(
      [small.base, path.join(to, 'stage-1', 'merged-1'), last].map(tensorsOf),
    );
    expect(after!.get(decoder)).toBe(merged!.get(decoder));
    expect(after!.get(decoder)).not.toBe(base!.get(decoder));
  });
});

/** The loss of eight samples; factors, where there are any, without dropout. */
async function lossOf(stage: StageConfig, source: ModelSource): Promise<number> {
  const { config, weights, lora } = await openStageModel(device, stage, source);
  const trace = traceForward(config, 4, { overlay: lora === undefined ? undefined : loraOverlay(lora) });
  const run = await device.load(program('loss', lossOutputs(trace)));
  const { feeds } = makeBatch(
    eightSamples((i) => i),
    config,
    4,
  );
  const { outputs } = await run.run({ ...weights, ...feeds });
  await run.dispose();
  await device.free(Object.values(weights));
  return Number(outputs.loss?.data[0]);
}

describe('an adapter over the base', () => {
  it('takes the place of its tensors', async () => {
    const { config } = await openStageModel(device, stageOf({}), { base: small.base });
    const base = await openCheckpoint(small.base);
    const adapter = path.join(small.dir, 'adapter.safetensors');
    const entries = [...adapterTensors(config)].map(([name, shape]) => ({
      name,
      dtype: 'F32' as const,
      shape,
      data: async () => (await base.readF32(name)).map((x) => x + 1),
    }));
    await writeSafetensors(adapter, entries, { format: 'pt' });
    const { weights } = await openStageModel(device, stageOf({}), { base: small.base, adapter });
    for (const name of ['model.mm_projector.0.weight', 'model.layers.0.mlp.down_proj.weight']) {
      const values = (await device.download(weights[name]!)).data;
      const expected = await base.readF32(name);
      const by = name.includes('projector') ? 1 : 0;
      expect(values).toEqual(expected.map((x) => x + by));
    }
    await device.free(Object.values(weights));
  });

  it('is refused with mode lora, whose base is one folder', async () => {
    const stage = stageOf({ mode: 'lora' });
    await expect(openStageModel(device, stage, { base: small.base, adapter: 'a.bin' })).rejects.toThrow(
      `fusion merge ${small.base} a.bin --out DIR`,
    );
  });
});
