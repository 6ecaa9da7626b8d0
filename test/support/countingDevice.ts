/** A device in this thread that knows how many resident tensors there are and which programs ran. */
import { type FusionModel, loadModel } from '../../src/generate/model.ts';
import type { DType } from '../../src/graph/dtype.ts';
import type { Program } from '../../src/graph/program.ts';
import { LocalDevice } from '../../src/runtime/localDevice.ts';
import type {
  Constants,
  Executable,
  FileRange,
  HostTensor,
  ResidentTensor,
} from '../../src/runtime/types.ts';

export class CountingDevice extends LocalDevice {
  readonly #live = new Set<number>();
  /** Names of the programs that were compiled, in order. */
  readonly loads: string[] = [];
  /** Names of the programs that ran, in order. */
  readonly runs: string[] = [];
  /** Called after each run; tests cancel from here. */
  afterRun: (name: string) => void = () => {};

  constructor() {
    super({ threads: 1 });
  }

  /** Resident tensors that were made and not freed. */
  get live(): number {
    return this.#live.size;
  }

  override async load(program: Program, constants?: Constants): Promise<Executable> {
    this.loads.push(program.name);
    return this.#counted(await super.load(program, constants));
  }

  #counted(executable: Executable): Executable {
    const { name } = executable.program;
    return {
      ...executable,
      run: async (feeds, options) => {
        const result = await executable.run(feeds, options);
        for (const tensor of Object.values(result.kept)) this.#count(tensor);
        this.runs.push(name);
        try {
          this.afterRun(name);
        } catch (error) {
          // A run that fails leaves nothing.
          await this.free(Object.values(result.kept));
          throw error;
        }
        return result;
      },
    };
  }

  override async upload(tensor: HostTensor): Promise<ResidentTensor> {
    return this.#count(await super.upload(tensor));
  }

  override async zeros(dtype: DType, shape: readonly number[]): Promise<ResidentTensor> {
    return this.#count(await super.zeros(dtype, shape));
  }

  override async readFile(range: FileRange): Promise<ResidentTensor> {
    return this.#count(await super.readFile(range));
  }

  override async free(tensors: readonly ResidentTensor[]): Promise<void> {
    for (const { resident } of tensors) {
      if (!this.#live.delete(resident)) throw new Error(`tensor ${resident} was freed twice`);
    }
    await super.free(tensors);
  }

  #count(tensor: ResidentTensor): ResidentTensor {
    this.#live.add(tensor.resident);
    return tensor;
  }
}

/** Works with the model of a folder on such a device, and sees that nothing is left on it. */
export async function withCountedModel(
  dir: string,
  work: (model: FusionModel, device: CountingDevice) => Promise<void>,
): Promise<void> {
  const device = new CountingDevice();
  const model = await loadModel(dir, { device });
  await work(model, device);
  await model.dispose();
  if (device.live !== 0) throw new Error(`${device.live} resident tensors were not freed`);
}
