import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { runOnWebgpu } from '../../test/support/webgpuProcess.ts';
import { UserError } from '../common/errors.ts';
import type { CheckReport } from '../verify/check.ts';
import { describeDevices, openDevice } from './device.ts';
import type { DeviceName } from './types.ts';

const failureOf = (action: Promise<unknown>): Promise<unknown> =>
  action.then(
    () => Promise.reject(new Error('expected a rejection')),
    (error: unknown) => error,
  );

describe('openDevice', () => {
  it('opens the CPU, with the threads that are asked for', async () => {
    for (const name of ['cpu', 'auto'] as const) {
      const device = await openDevice(name, { threads: 3 });
      expect([device.name, device.threads]).toEqual(['cpu', 3]);
      expect((await device.zeros('f32', [2])).shape).toEqual([2]);
      await device.close();
    }
    const device = await openDevice('cpu');
    expect(device.threads).toBe(availableParallelism());
    await device.close();
  });

  it('refuses unknown names and impossible thread counts', async () => {
    expect(await failureOf(openDevice('cuda' as DeviceName))).toEqual(
      new UserError('device: expected cpu, webgpu, auto, got cuda'),
    );
    for (const threads of [0, -1, 1.5, Number.NaN, 1025]) {
      expect(await failureOf(openDevice('cpu', { threads }))).toEqual(
        new UserError(`threads: expected an integer from 1 to 1024, got ${threads}`),
      );
    }
  });

  it('says of WebGPU whether it is there, and if not why', async () => {
    const [cpu, webgpu] = await describeDevices();
    expect(cpu).toEqual({ name: 'cpu', available: true });
    expect(webgpu?.name).toBe('webgpu');
    if (webgpu?.available) return (await openDevice('webgpu')).close();
    expect(webgpu?.reason).toMatch(/^[^\n]+$/);
    const error = await failureOf(openDevice('webgpu'));
    expect(error).toBeInstanceOf(UserError);
    expect((error as UserError).message).toBe(`webgpu: ${webgpu?.reason}; available: cpu`);
  });
});

describe('WebGPU', () => {
  it('computes the loss of a golden checkpoint', async (context) => {
    const from = fileURLToPath(new URL('../../test/fixtures/golden/llama-small', import.meta.url));
    const dir = await mkdtemp(path.join(tmpdir(), 'webgpu-'));
    await cp(from, dir, { recursive: true });
    const { one_turn } = JSON.parse(await readFile(path.join(from, 'cases.json'), 'utf8'));
    // The loss alone: with gradients a software driver needs more than half a minute.
    delete one_turn.grad_norm;
    await writeFile(path.join(dir, 'cases.json'), JSON.stringify({ one_turn }));
    const result = await runOnWebgpu<Partial<CheckReport>>('./webgpuCheck.ts', [dir, '10']);
    await rm(dir, { recursive: true });
    if ('reason' in result) {
      console.warn(`skipped: webgpu: ${result.reason}`);
      return context.skip(result.reason);
    }
    const compared = result.outcomes?.filter(({ quantity }) => quantity !== 'unknown') ?? [];
    expect(compared.map(({ quantity, status }) => [quantity, status])).toEqual([
      ['lengths', 'ok'],
      ['losses', 'ok'],
      ['logits', 'ok'],
      ['features', 'ok'],
      ['gradient norms', 'unchecked'],
    ]);
    expect(compared[1]?.worst?.deviation).toBeLessThan(1e-3);
  });
});
