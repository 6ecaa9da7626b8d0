/** What can be left out of a model trained from scratch, for comparison: it trains, is saved, loads and answers. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openCheckpoint } from '../src/checkpoint/folder.ts';
import { evalSynth } from '../src/eval/synth.ts';
import { loadModel } from '../src/generate/model.ts';
import { LocalDevice } from '../src/runtime/localDevice.ts';
import { readMetrics } from '../src/train/metrics.ts';
import { trainStages } from '../src/train/runStages.ts';
import { runCli } from './support/cli.ts';
import { smallBase, TINY_CONFIG } from './support/smallBase.ts';

const STEPS = 12;
const device = new LocalDevice({ name: 'cpu', threads: 1 });

/** Trains the model of `changes` for a few steps on a curriculum of two recipes; the rows of its log. */
async function trained(changes: Readonly<Record<string, unknown>>, mappingLossWeight = 0.1) {
  const made = await smallBase(changes);
  const configFile = path.join(made.dir, 'train.yaml');
  const easy = { min_objects: 1, max_objects: 2, shapes: 2, colours: 2, words: false, textures: false };
  writeFileSync(
    configFile,
    JSON.stringify({
      name: 'small',
      stage: '1',
      data: {
        synth: [
          { categories: ['SynthColor'], count: 4 * (STEPS - 2), size: 64, ...easy },
          { categories: ['ConvShort'], count: 8, size: 64, max_objects: 3 },
        ],
      },
      learning_rates: [['.*', 3e-3]],
      schedule: 'constant',
      batch_size: 4,
      max_length: 256,
      mapping_loss_weight: mappingLossWeight,
      log_every: 1,
    }),
  );
  const out = path.join(made.dir, 'run');
  const options = { device, configFile, base: made.base, out, resume: false, environment: {} };
  const checkpoint = await trainStages(options);
  const rows = await readMetrics(path.join(out, 'stage-1', 'metrics.jsonl'));
  return { made, checkpoint, rows };
}

async function tensorNames(dir: string): Promise<readonly string[]> {
  return [...(await openCheckpoint(dir)).tensors.keys()];
}

const INTERACTION = /vision_sampler_layers/;

describe.each([
  ['everything', {}, 0.1],
  ['no text guidance', { text_guided: false }, 0.1],
  ['no interaction layers', { num_of_vision_sampler_layers: 0 }, 0.1],
  ['no mapping loss', {}, 0],
] as const)('%s', (name, changes, mappingLossWeight) => {
  let result: Awaited<ReturnType<typeof trained>>;
  beforeAll(async () => {
    result = await trained(changes, mappingLossWeight);
  });
  afterAll(() => result.made.remove());

  test('the loss falls', () => {
    const { rows } = result;
    expect(rows).toHaveLength(STEPS);
    const mean = (part: typeof rows) => part.reduce((sum, row) => sum + row.cross_entropy, 0) / part.length;
    expect(mean(rows.slice(6, 10))).toBeLessThan(0.9 * mean(rows.slice(0, 2)));
  });

  test('the loss is made of the parts that are left', () => {
    for (const { loss, cross_entropy, text_loss, vision_loss } of result.rows) {
      expect(loss).toBeCloseTo(cross_entropy + mappingLossWeight * (text_loss + vision_loss), 4);
      expect(text_loss > 0).toBe(name !== 'no text guidance');
      expect(vision_loss).toBeGreaterThan(0);
    }
  });

  test('the checkpoint has the same tensors, loads and answers', async () => {
    const { made, checkpoint } = result;
    const names = await tensorNames(checkpoint);
    expect([...names].sort()).toEqual([...(await tensorNames(made.base))].sort());
    expect(names.some((tensor) => INTERACTION.test(tensor))).toBe(name !== 'no interaction layers');
    const model = await loadModel(checkpoint, { device });
    try {
      expect(model.config.textGuided).toBe(name !== 'no text guidance');
      const { overall, answers } = await evalSynth(model, { count: 7, seed: 0 });
      expect(overall.questions).toBe(7);
      expect(answers.some(({ answer }) => answer !== '')).toBe(true);
    } finally {
      await model.dispose();
    }
  });
});

test('init --no-text-guidance writes the key, and a card', async () => {
  const made = await smallBase();
  const dir = mkdtempSync(path.join(tmpdir(), 'fusion-init-'));
  try {
    const out = path.join(dir, 'unguided');
    const common = ['--random', '--config', TINY_CONFIG, '--tokenizer', made.base, '--dtype', 'f32', '-q'];
    const { code, stderr } = await runCli(['init', ...common, '--no-text-guidance', '--out', out]);
    expect([code, stderr]).toEqual([0, '']);
    expect(JSON.parse(readFileSync(path.join(out, 'config.json'), 'utf8')).text_guided).toBe(false);
    expect(readFileSync(path.join(out, 'README.md'), 'utf8')).toContain('None: random weights.');
  } finally {
    made.remove();
    rmSync(dir, { recursive: true, force: true });
  }
});
