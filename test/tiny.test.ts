/** The model that comes with the package: it answers, it looks, and its card says how it was made. */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { evalSynth } from '../src/eval/synth.ts';
import { type FusionModel, loadModel } from '../src/generate/model.ts';
import { runCli } from './support/cli.ts';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const TINY = path.join(ROOT, 'models/tiny');

it('does what the README asks of it, and is the default model', async () => {
  const scene = path.join(ROOT, 'examples/scene.png');
  const { code, stdout } = await runCli(['ask', scene, 'Describe the picture.']);
  expect(code).toBe(0);
  expect(stdout).toMatch(
    /^On a speckled grey background: a large striped cyan square at the top left, a small red circle at the top right, a large yellow circle at the bottom left/,
  );
});

it('counts what it is asked for, within ten seconds', async () => {
  const began = performance.now();
  const { stdout } = await runCli([
    'ask',
    path.join(ROOT, 'examples/scene.png'),
    'How many red circles are there?',
  ]);
  expect(stdout.trim()).toBe('2');
  expect(performance.now() - began).toBeLessThan(10_000);
}, 60_000);

describe('generated questions about pictures never trained on', () => {
  let model: FusionModel;
  beforeAll(async () => {
    model = await loadModel(TINY);
  });
  afterAll(() => model.dispose());

  it('are answered, and only with a picture', async () => {
    const asked = { count: 140, seed: 7 };
    const seen = await evalSynth(model, { ...asked, blank: false });
    const blank = await evalSynth(model, { ...asked, blank: true });
    expect(seen.overall.accuracy).toBeGreaterThan(0.74);
    expect(seen.overall.accuracy - blank.overall.accuracy).toBeGreaterThan(0.44);
  }, 120_000);
});

describe('models/tiny', () => {
  it('is at most 25 MB', () => {
    const files = readdirSync(TINY, { recursive: true, withFileTypes: true }).filter((file) => file.isFile());
    const bytes = files.reduce(
      (sum, { parentPath, name }) => sum + statSync(path.join(parentPath, name)).size,
      0,
    );
    expect(bytes).toBeLessThanOrEqual(25e6);
  });

  it('has a card with all stages and scores of every category', () => {
    const card = readFileSync(path.join(TINY, 'README.md'), 'utf8');
    expect(card).toContain('|  | stage 1 | stage 1.5 | stage 2 |');
    const scores = card.slice(card.indexOf('## Scores'), card.indexOf('## Use'));
    for (const row of ['overall', 'ConvShort', 'MultiChoice', 'Reasoning', 'TextQA', 'ContrastShort']) {
      expect(scores).toMatch(new RegExp(String.raw`^\| ${row} +\| \d+`, 'm'));
    }
  });
});
