/** `fusion check`: golden checkpoints pass, and whatever is changed in one is named. */
import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { Command } from 'commander';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { openSafetensors, readTensor, writeSafetensors } from '../src/checkpoint/safetensors.ts';
import { registerCheck } from '../src/cli/check.ts';
import { UserError } from '../src/common/errors.ts';
import type { Program } from '../src/graph/index.ts';
import { LocalDevice } from '../src/runtime/localDevice.ts';
import type { Executable, ResidentTensor } from '../src/runtime/types.ts';
import { readExpectedValues } from '../src/verify/cases.ts';
import { type CheckReport, checkCheckpoint } from '../src/verify/check.ts';
import { describeOutcome, judge, relativeDeviation, scalarDeviation } from '../src/verify/compare.ts';

const GOLDEN = fileURLToPath(new URL('./fixtures/golden', import.meta.url));
const SMALL = path.join(GOLDEN, 'llama-small');
const FILES = ['config.json', 'model.safetensors', 'cases.json', 'cases.safetensors'];

// A full-size vision tower with all gradients on a busy machine.
const LARGE_TIMEOUT = 900_000;

interface Finished {
  readonly lines: readonly string[];
  readonly output: string;
  readonly exitCode: number;
}

/** Runs the command; errors are thrown, as the program around it sees them. */
async function run(...args: string[]): Promise<Finished> {
  const program = new Command('fusion').exitOverride().configureOutput({ writeErr: () => {} });
  registerCheck(program);
  for (const command of program.commands) command.exitOverride().configureOutput({ writeErr: () => {} });
  let output = '';
  const before = process.exitCode;
  const write = vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    output += String(text);
    return true;
  });
  try {
    process.exitCode = undefined;
    await program.parseAsync(['check', ...args], { from: 'user' });
    return { output, lines: output.trimEnd().split('\n'), exitCode: Number(process.exitCode ?? 0) };
  } finally {
    write.mockRestore();
    process.exitCode = before;
  }
}

let dir = '';
beforeEach(() => {
  dir = mkdtempSync(path.join(tmpdir(), 'check-'));
  for (const file of FILES) copyFileSync(path.join(SMALL, file), path.join(dir, file));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

type Json = Record<string, Record<string, unknown>>;

function changeNumbers(change: (json: Json) => void): void {
  const file = path.join(dir, 'cases.json');
  const json: Json = JSON.parse(readFileSync(file, 'utf8'));
  change(json);
  writeFileSync(file, JSON.stringify(json));
}

/** Keeps one case without gradients: quick to run. */
const onlyForward = () =>
  changeNumbers((json) => {
    for (const name of Object.keys(json)) if (name !== 'one_turn') delete json[name];
    delete json.one_turn?.grad_norm;
  });

interface Changeable {
  shape: readonly number[];
  data: Float32Array | Int32Array;
}

/** Rewrites a tensor file after `change` has had all its tensors. */
async function changeTensors(
  name: string,
  change: (tensors: Map<string, Changeable>) => void,
): Promise<void> {
  const file = await openSafetensors(path.join(dir, name));
  const tensors = new Map<string, Changeable>();
  for (const [tensor, { shape, dtype }] of file.tensors) {
    const { buffer } = await readTensor(file, tensor);
    tensors.set(tensor, { shape, data: dtype === 'I32' ? new Int32Array(buffer) : new Float32Array(buffer) });
  }
  change(tensors);
  await writeSafetensors(
    path.join(dir, name),
    [...tensors].map(([tensor, { shape, data }]) => {
      return { name: tensor, dtype: data instanceof Int32Array ? 'I32' : 'F32', shape, data };
    }),
  );
}

describe('golden checkpoints pass', () => {
  it.each([
    ['llama-small', 25],
    ['fusion-l', 20],
    ['phi3-long', 20],
    ['phi3-siglip2', 20],
    ['llama-siglip', 20],
  ])(
    '%s',
    async (name, count) => {
      const { lines, exitCode } = await run(path.join(GOLDEN, name));
      expect(lines.filter((line) => !line.startsWith('ok  '))).toEqual([`passed: ${count} ok`]);
      expect(exitCode).toBe(0);
      expect(lines).toContain('ok    greedy                  cached          12 equal');
      expect(lines).toContain('ok    greedy                  recomputed      12 equal');
      expect(lines.join('\n')).toMatch(/ok {4}adamw +losses +worst \d\.\de-\d of 2e-3 \(step \d\)/);
      expect(lines.join('\n')).toMatch(
        /ok {4}two_turns_padded_batch {2}logits {10}worst \d\.\de-7 of 1e-3 \(sample \d\)/,
      );
    },
    LARGE_TIMEOUT,
  );
});

describe('what is changed is named', () => {
  it('each kind of expected value', async () => {
    changeNumbers((json) => {
      Object.assign(json.one_turn!, {
        vision_loss: Number(json.one_turn!.vision_loss) + 2e-4,
        lengths: [85],
      });
      const norms = json.text_only_beside_image!.grad_norm as Record<string, number>;
      norms['model.norm.weight']! *= 1.002;
      norms['model.vision_tower.vision_tower.vision_model.post_layernorm.bias'] = 1e-7;
      (json.adamw!.losses as number[])[2]! += 3e-3;
      (json.adamw!.grad_norms as number[])[3]! *= 1.02;
      (json.greedy!.tokens as number[])[3] = 7;
    });
    await changeTensors('cases.safetensors', (tensors) => {
      tensors.get('two_turns_padded_batch.logits.1')!.data[77]! += 0.05;
      tensors.get('truncated.windows')!.data[5]! += 0.05;
      tensors.get('two_turns_padded_batch.grad.model.mm_projector.0.weight')!.data[0]! += 0.001;
    });
    const { output, exitCode } = await run(dir, '--json');
    const { passed, outcomes } = JSON.parse(output) as CheckReport;
    expect([passed, exitCode]).toEqual([false, 1]);
    const wrong = outcomes.filter(({ status }) => status !== 'ok');
    expect(wrong.map((o) => [o.status, o.case, o.quantity, o.worst?.at ?? o.reason])).toEqual([
      ['over', 'one_turn', 'lengths', 'sample 0: expected 85, got 84'],
      ['over', 'one_turn', 'losses', 'vision_loss'],
      ['over', 'two_turns_padded_batch', 'logits', 'sample 1'],
      ['over', 'two_turns_padded_batch', 'gradients', 'model.mm_projector.0.weight'],
      ['over', 'adamw', 'losses', 'step 3'],
      ['over', 'adamw', 'gradient norms', 'step 4'],
      ['over', 'text_only_beside_image', 'gradient norms', 'model.norm.weight'],
      ['over', 'truncated', 'features', 'windows'],
      ['over', 'greedy', 'cached', 'token 3: expected 7, got 387'],
      ['over', 'greedy', 'recomputed', 'token 3: expected 7, got 387'],
    ]);
    expect(outcomes.length).toBe(25);
  });

  it('a weight that is off by a little', async () => {
    onlyForward();
    await changeTensors('model.safetensors', (tensors) => {
      tensors.get('model.layers.2.mlp.down_proj.weight')!.data[9]! += 0.1;
    });
    const { lines, exitCode } = await run(dir);
    expect(exitCode).toBe(1);
    expect(lines).toContainEqual(
      expect.stringMatching(/^OVER {2}one_turn +logits +worst \S+ of 1e-3 \(sample 0\)$/),
    );
    expect(lines.at(-1)).toMatch(/^FAILED: \d ok, \d over tolerance/);
    const factor = await run(dir, '--tolerance', '1000', '--quiet');
    expect([factor.output, factor.exitCode]).toEqual(['', 0]);
    const tight = await run(SMALL, '--tolerance', '1e-6', '--quiet');
    expect(tight.lines.every((line) => line.startsWith('OVER'))).toBe(true);
    expect(tight.exitCode).toBe(1);
  });

  it('a weight that is not a number', async () => {
    await changeTensors('model.safetensors', (tensors) => {
      tensors.get('model.norm.weight')!.data[0] = Number.NaN;
    });
    changeNumbers((json) => {
      for (const name of Object.keys(json)) if (!['one_turn', 'greedy'].includes(name)) delete json[name];
    });
    const { lines } = await run(dir);
    expect(lines).toContain('OVER  one_turn                losses          worst NaN of 1e-4 (loss)');
    expect(lines).toContain('OVER  one_turn                logits          worst NaN of 1e-3 (sample 0)');
    expect(lines).toContain(
      'OVER  greedy                  cached          token 0: expected 384, got nothing',
    );
    expect(lines).toContainEqual(expect.stringMatching(/^OVER {2}one_turn +gradient norms +worst NaN/));
  });
});

describe('what cannot be compared is told', () => {
  it('and the rest still runs', async () => {
    onlyForward();
    changeNumbers((json) => {
      json.one_turn!.grad_norm = { 'model.no_such.weight': 1 };
      json.one_turn!.perplexity = 3;
      json.speed = { tokens: 5 };
    });
    await changeTensors('cases.safetensors', (tensors) => {
      for (const name of [...tensors.keys()]) if (!name.startsWith('one_turn')) tensors.delete(name);
      tensors.set('one_turn.logits.0', { shape: [1, 512], data: new Float32Array(512) });
      for (const name of ['image', 'latent0', 'windows', 'vision_rebuilt', 'text_rebuilt']) {
        tensors.delete(`one_turn.${name}`);
      }
      tensors.set('one_turn.attention.3', { shape: [1], data: Float32Array.of(1) });
    });
    const { lines, exitCode } = await run(dir);
    expect(exitCode).toBe(1);
    expect(lines.map((line) => line.replace(/ {2,}/g, '  '))).toEqual([
      'ok  one_turn  lengths  1 equal',
      expect.stringMatching(/^ok {2}one_turn {2}losses {2}worst/),
      'FAIL  one_turn  logits  could not be run: logits.0: expected [1, 512], got [24, 512]',
      '--  one_turn  features  not stored',
      'FAIL  one_turn  gradient norms  could not be run: the model has no tensor model.no_such.weight',
      '--  one_turn.perplexity  unknown  not checked',
      '--  speed  unknown  not checked',
      '--  one_turn.attention.3  unknown  not checked',
      'FAILED: 2 ok, 2 failed, 4 not checked',
    ]);
  });

  it('a case of any name is run', async () => {
    onlyForward();
    changeNumbers((json) => {
      json['my case'] = json.one_turn!;
      delete json.one_turn;
    });
    await changeTensors('cases.safetensors', (tensors) => {
      for (const [name, tensor] of [...tensors]) {
        tensors.delete(name);
        if (name.startsWith('one_turn.')) tensors.set(name.replace('one_turn', 'my case'), tensor);
      }
    });
    const { lines, exitCode } = await run(dir);
    expect(exitCode).toBe(0);
    expect(lines.filter((line) => line.startsWith('ok    my case  ')).length).toBe(4);
  });
});

describe('the device', () => {
  it('holds one large program at a time, and nothing at the end', async () => {
    const tensors = new Set<number>();
    let [loaded, mostLarge, large] = [0, 0, 0];
    class Counting extends LocalDevice {
      override async zeros(...args: Parameters<LocalDevice['zeros']>) {
        return noted(await super.zeros(...args));
      }
      override async readFile(...args: Parameters<LocalDevice['readFile']>) {
        return noted(await super.readFile(...args));
      }
      override async free(freed: readonly ResidentTensor[]) {
        for (const { resident } of freed) tensors.delete(resident);
        await super.free(freed);
      }
      override async load(program: Program): Promise<Executable> {
        const executable = await super.load(program);
        const size = program.outputs.size > 50 ? 1 : 0;
        loaded += 1;
        large += size;
        mostLarge = Math.max(mostLarge, large);
        return {
          program,
          run: async (...args) => {
            const result = await executable.run(...args);
            Object.values(result.kept).forEach(noted);
            return result;
          },
          dispose: async () => {
            loaded -= 1;
            large -= size;
            await executable.dispose();
          },
        };
      }
    }
    const noted = (tensor: ResidentTensor) => {
      tensors.add(tensor.resident);
      return tensor;
    };
    const device = new Counting({ threads: 2 });
    const { passed } = await checkCheckpoint(device, SMALL);
    await device.close();
    expect(passed).toBe(true);
    expect({ loaded, mostLarge, held: tensors.size }).toEqual({ loaded: 0, mostLarge: 1, held: 0 });
  });
});

describe('broken files are one line that names them', () => {
  const failure = async (): Promise<string> => {
    const error = await readExpectedValues(dir, 512).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(UserError);
    const { message } = error as UserError;
    expect(message).not.toContain('\n');
    expect(message.startsWith(`${dir}${path.sep}`)).toBe(true);
    return message.slice(dir.length + 1);
  };
  const change = (values: Record<string, unknown>) => (json: Json) => Object.assign(json.one_turn!, values);

  it.each<readonly [string, (json: Json) => void, string]>([
    ['query length', change({ query_len: 5 }), 'one_turn.query_len: expected a perfect square, got 5'],
    ['loss', change({ ce: null }), 'one_turn.ce: expected a finite number, got null'],
    ['lengths', change({ lengths: [1, 2] }), 'one_turn.lengths: expected 1 of them, got [1,2]'],
    ['blank images', change({ blank_images: [1] }), 'one_turn.blank_images: expected below 1, got [1]'],
    ['norms', change({ grad_norm: [1] }), 'one_turn.grad_norm: expected an object of numbers, got [1]'],
    [
      'training',
      (json) => Object.assign(json.adamw!, { case: 'none' }),
      'adamw.case: expected one_turn or two_turns_padded_batch or text_only_beside_image or truncated, got "none"',
    ],
    [
      'prompt',
      (json) => Object.assign(json.greedy!, { prompt_length: 19 }),
      'greedy.prompt_length: expected at most the 18 ids of one_turn, got 19',
    ],
    [
      'tokens',
      (json) => Object.assign(json.greedy!, { tokens: [1] }),
      'greedy.tokens: expected 12 tokens, as steps says, got [1]',
    ],
    [
      'no case',
      (json) => {
        for (const name of Object.keys(json)) delete json[name];
      },
      'expected at least one case (an entry with lengths), got []',
    ],
  ])('%s', async (_name, edit, message) => {
    changeNumbers(edit);
    expect(await failure()).toBe(`cases.json: ${message}`);
  });

  it.each<readonly [string, (tensors: Map<string, Changeable>) => void, string]>([
    [
      'mask',
      (t) => t.get('one_turn.attention_mask')!.data.set([0]),
      'one_turn.attention_mask: expected ones, then zeros as padding, got [0, 1, ',
    ],
    [
      'ids',
      (t) => t.get('one_turn.input_ids')!.data.set([512]),
      'one_turn.input_ids: expected ids below vocab_size 512 or -200 or -300, got 512',
    ],
    [
      'instructs',
      (t) => t.get('one_turn.instructs')!.data.set([-300]),
      'one_turn.instructs: expected ids below vocab_size 512, got -300',
    ],
    ['absent', (t) => t.delete('one_turn.labels'), 'expected tensor one_turn.labels, got none of that name'],
    [
      'shape',
      (t) => t.set('one_turn.labels', { shape: [2, 9], data: new Int32Array(18) }),
      'one_turn.labels: expected [1, 18], got [2, 9]',
    ],
    [
      'dtype',
      (t) => t.set('one_turn.labels', { shape: [1, 18], data: new Float32Array(18) }),
      'one_turn.labels: expected I32 of two dimensions, got F32 [1,18]',
    ],
  ])('%s', async (_name, edit, message) => {
    await changeTensors('cases.safetensors', edit);
    expect(await failure()).toContain(`cases.safetensors: ${message}`);
  });

  it('absent and unreadable files', async () => {
    rmSync(path.join(dir, 'cases.safetensors'));
    expect(await failure()).toMatch(/^cases\.safetensors: ENOENT/);
    const main = fileURLToPath(new URL('../src/cli/main.ts', import.meta.url));
    const child = spawnSync(process.execPath, ['--import', 'tsx', main, 'check', dir], { encoding: 'utf8' });
    expect([child.status, child.stdout]).toEqual([2, '']);
    expect(child.stderr).toMatch(/^fusion: \S+cases\.safetensors: ENOENT[^\n]*\n$/);
    writeFileSync(path.join(dir, 'cases.json'), '{');
    expect(await failure()).toMatch(/^cases\.json: expected JSON, got/);
    rmSync(path.join(dir, 'cases.json'));
    expect(await failure()).toMatch(/^cases\.json: expected the checkpoint's expected values, got ENOENT/);
  });

  it.each(['0', '-1', 'x', '', 'Infinity'])('tolerance %j', async (factor) => {
    await expect(run(SMALL, '--tolerance', factor)).rejects.toThrow('Expected a factor above 0.');
  });
});

describe('deviations', () => {
  it('are judged by the one that uses most of what it is allowed', () => {
    const outcome = judge('case', 'losses', [
      scalarDeviation(1, 1.5, 1, 'a'),
      scalarDeviation(1, 1.4, 0.5, 'b'),
      scalarDeviation(0, 0, 0.5, 'c'),
    ]);
    expect(outcome).toMatchObject({ status: 'ok', worst: { at: 'b' } });
    expect(describeOutcome(outcome)).toMatch(/^ok {4}case {2}losses +worst 4.0e-1 of 5e-1 \(b\)$/);
    for (const got of [Number.NaN, Number.POSITIVE_INFINITY]) {
      const bad = judge('case', 'losses', [scalarDeviation(1, 3, 1, 'a'), scalarDeviation(got, 0, 1, 'b')]);
      expect(bad).toMatchObject({ status: 'over', worst: { at: 'b' } });
    }
    expect(judge('case', 'logits', [])).toMatchObject({ status: 'unchecked', reason: 'not stored' });
  });

  it('are relative to the largest value, and not a number where any value is not', () => {
    expect(relativeDeviation([1, -9], [1, -10], 0, '').deviation).toBe(0.1);
    expect(relativeDeviation([0.5], [0], 0, '').deviation).toBe(0.5);
    expect(relativeDeviation([1, Number.NaN, 1], [1, 1, 1], 0, '').deviation).toBeNaN();
    expect(relativeDeviation([1], [Number.NaN], 0, '').deviation).toBeNaN();
    expect(relativeDeviation([1], [1, 1], 0, '').deviation).toBeNaN();
  });
});
