/** Refused, warned of or let pass: by estimates of the released sizes, and before anything is loaded. */
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { CountingDevice } from '../../test/support/countingDevice.ts';
import { type RandomModel, randomModel } from '../../test/support/randomModel.ts';
import { variantJson } from '../checkpoint/baseConfigs.ts';
import { partFormats } from '../checkpoint/quantise/formats.ts';
import { UserError } from '../common/errors.ts';
import { parseFusionConfig } from '../model/config.ts';
import { type CheckedModel, checkMemory, hasRoomForAll } from './fitCheck.ts';
import { memoryNeeds } from './memoryNeeds.ts';
import { loadModel } from './model.ts';

const free = vi.hoisted(() => ({ bytes: 1e15 }));
vi.mock('../common/machineMemory.ts', () => ({
  machineMemory: () => ({ available: free.bytes, total: free.bytes }),
}));

const variant = 'fusion-x-phi3.5-3b';
const config = parseFusionConfig(variantJson(variant), variant);
const trained: CheckedModel = { dir: 'phi', config, quantization: undefined };
const converted: CheckedModel = { dir: 'phi4', config, quantization: { formats: partFormats('int4') } };
const gigabytes = (n: number) => ({ available: n * 1e9, total: 64e9 });
const refusal = (...args: Parameters<typeof checkMemory>): string => {
  try {
    checkMemory(...args);
  } catch (error) {
    if (error instanceof UserError) return error.message;
  }
  return '';
};

describe('by estimates', () => {
  it('passes what fits with room to spare', () => {
    expect(checkMemory(trained, undefined, {}, gigabytes(60))).toEqual([]);
    expect(checkMemory(trained, 'int4', { positions: 900 }, gigabytes(8))).toEqual([]);
    expect(checkMemory(converted, undefined, { positions: 900 }, gigabytes(8))).toEqual([]);
  });

  it('refuses what surely does not fit, in one line, with the formats that would', () => {
    const text = refusal(trained, undefined, {}, gigabytes(12));
    expect(text).toMatch(
      /^phi: expected 2\d\.\d\d GB of free memory .* in f32 .*, got 12\.00 GB; what fits: --weights int8 \(\d\.\d\d GB\), --weights int4 \(4\.\d\d GB\); --no-memory-check loads it anyway$/,
    );
    const less = refusal(trained, 'int8', {}, gigabytes(5));
    expect(less).toContain('in int8');
    expect(less).not.toContain('--weights int8');
    expect(less).toContain('--weights int4');
    expect(refusal(converted, undefined, {}, gigabytes(3))).not.toContain('what fits');
  });

  it('knows no option of a converted folder, but its original', () => {
    const int8 = { ...converted, quantization: { formats: partFormats('int8') } };
    expect(refusal(int8, undefined, {}, gigabytes(5))).toContain('the original converted to int4 (4.');
  });

  it('warns where the whole context may not fit, with the room there is', () => {
    const warnings = checkMemory(converted, undefined, { positions: 4096 }, gigabytes(6));
    expect(warnings).toEqual([
      expect.stringMatching(
        /^phi4: in int4 .* with 4096 positions, 6\.00 GB is free; what fits: conversations of up to \d+ positions/,
      ),
    ]);
    const room = Number(/up to (\d+)/.exec(warnings[0] ?? '')?.[1]);
    const peak = (positions: number) =>
      memoryNeeds(config, partFormats('int4'), { positions, queryLength: 36, sequences: 1, asksAgain: false })
        .peak;
    expect(peak(room)).toBeLessThanOrEqual(6e9);
    expect(peak(room + 1)).toBeGreaterThan(6e9);
  });

  it('warns of many conversations at once, and of a second picture', () => {
    const use = { positions: 1024 };
    const [once, again] = [false, true].map((asksAgain) => {
      const whole = { ...use, asksAgain, queryLength: config.defaultQueryLen, sequences: 1 };
      return memoryNeeds(config, partFormats('int4'), whole).peak;
    }) as [number, number];
    // 15% more than it takes once, and not that much more than what it takes twice.
    const between = { available: (1.15 * (once + again)) / 2, total: 64e9 };
    expect(checkMemory(converted, undefined, use, between)).toEqual([]);
    expect(checkMemory(converted, undefined, { ...use, asksAgain: true }, between)).toHaveLength(1);
    expect(checkMemory(converted, undefined, { ...use, sequences: 8 }, gigabytes(6))[0]).toMatch(
      /8 conversations of 1024 positions/,
    );
  });

  it('has room for all parts where more is asked and twice what it takes is free', () => {
    const use = { positions: 1024, queryLength: 36, sequences: 1, asksAgain: true };
    const needed = memoryNeeds(config, partFormats('int4'), use).peak;
    const room = (factor: number, asksAgain = true) =>
      hasRoomForAll(converted, { ...use, asksAgain }, { available: factor * needed, total: 64e9 });
    expect([room(2.01), room(1.99), room(9, false)]).toEqual([true, false, false]);
  });

  it('names fewer latents where they decide', () => {
    const use = { promptTokens: 1000, positions: 1030, queryLength: 144 };
    const peak = (queryLength: number, positions: number) =>
      memoryNeeds(config, partFormats('int4'), { positions, queryLength, sequences: 1, asksAgain: false })
        .peak;
    const between = (peak(144, 1030) + peak(4, 890)) / 2;
    const [warning] = checkMemory(converted, undefined, use, { available: between, total: 64e9 });
    expect(warning).toContain('--query-len 4');
  });
});

describe('before loading', () => {
  let made: RandomModel;
  beforeAll(async () => {
    made = await randomModel();
  });
  afterAll(() => made.remove());

  it('a model that does not fit is not loaded, unless nobody checks', async () => {
    free.bytes = 20e6;
    const device = new CountingDevice();
    await expect(loadModel(made.dir, { device })).rejects.toThrow(
      /expected \d.* of free memory .*, got 0\.02 GB/,
    );
    expect(device.live).toBe(0);
    const model = await loadModel(made.dir, { device, memory: 'unchecked' });
    await model.dispose();
  });

  it('what is near is told', async () => {
    free.bytes = 180e6;
    const notes: string[] = [];
    const onNote = (text: string) => notes.push(text);
    const model = await loadModel(made.dir, { device: new CountingDevice(), onNote });
    await model.dispose();
    expect(notes).toEqual([expect.stringMatching(/in f32 it takes about .* 0\.18 GB is free/)]);
  });
});
