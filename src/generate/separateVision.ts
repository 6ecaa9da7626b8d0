/**
 * The vision programs of a model on a device of their own, so that one picture is encoded while other answers are
 * decoded. What they make is copied to the model's device. Knows nothing of pictures.
 */
import type { FusionConfig } from '../model/config.ts';
import { openDevice } from '../runtime/device.ts';
import type { Constants, Device, ResidentTensor } from '../runtime/types.ts';
import { type BoundProgram, CompiledPrograms, type ModelPrograms } from './compiled.ts';

export type VisionPrograms = Pick<ModelPrograms, 'tile' | 'whole' | 'dispose'>;

/**
 * Programs that run on a second CPU device with one thread; their results go to `device`. constants: all weights, as
 * files have them.
 */
export async function separateVision(
  device: Device,
  config: FusionConfig,
  constants: Constants,
): Promise<VisionPrograms> {
  const own = await openDevice('cpu', { threads: 1 });
  const programs = new CompiledPrograms(own, config, {}, constants);
  return {
    tile: async () => resultsTo(device, await programs.tile()),
    whole: async () => resultsTo(device, await programs.whole()),
    dispose: async () => {
      await programs.dispose();
      await own.close();
    },
  };
}

/** The program, with `write` and `keep` meaning tensors of `device`, which is not where it runs. */
function resultsTo(device: Device, program: BoundProgram): BoundProgram {
  return {
    run: async (feeds, { write = {}, keep = [], ...options } = {}) => {
      const { outputs } = await program.run(feeds, options);
      const made = new Map<string, ResidentTensor>();
      for (const name of new Set([...Object.keys(write), ...keep])) {
        const output = outputs[name];
        if (output !== undefined) made.set(name, await device.upload(output));
      }
      for (const [name, target] of Object.entries(write)) {
        const from = made.get(name);
        if (from !== undefined) await device.copy(from, target);
      }
      const rest = Object.fromEntries(Object.entries(outputs).filter(([name]) => !made.has(name)));
      const kept = Object.fromEntries([...made].filter(([name]) => keep.includes(name)));
      await device.free([...made].filter(([name]) => !keep.includes(name)).map(([, tensor]) => tensor));
      return { outputs: rest, kept };
    },
  };
}
