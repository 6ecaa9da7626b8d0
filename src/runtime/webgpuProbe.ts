/**
 * Whether WebGPU works here: compiles and runs one tiny program on it and sends the outcome to the parent process.
 * `device.ts` starts it as a process of its own, because a driver may take its process down with it.
 */
import { messageOf } from '../common/errors.ts';
import { input, matMul, program } from '../graph/index.ts';
import { LocalDevice } from './localDevice.ts';

/** What the probe sends: nothing is wrong where `reason` is absent. */
export interface ProbeOutcome {
  readonly reason?: string;
}

async function probe(): Promise<ProbeOutcome> {
  const a = input('a', 'f32', [2, 2]);
  const executable = await new LocalDevice({ name: 'webgpu', threads: 1 }).load(
    program('probe', { product: matMul(a, a) }),
  );
  const feed = { dtype: 'f32', shape: [2, 2], data: Float32Array.of(1, 2, 3, 4) } as const;
  const { outputs } = await executable.run({ a: feed });
  const got = [...(outputs.product?.data ?? [])].join();
  return got === '7,10,15,22' ? {} : { reason: `a 2×2 product was ${got}, expected 7,10,15,22` };
}

const outcome = await probe().catch((error: unknown): ProbeOutcome => ({ reason: messageOf(error) }));
// An adapter's threads may keep the process alive.
process.send?.(outcome, () => process.exit(0));
