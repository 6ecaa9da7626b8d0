/**
 * Two checkpoints of one model → one whose weights lie between theirs: of a run's late checkpoints such a mean often
 * answers better than either. One tensor is in memory at a time. Knows folders, not training.
 * Source: Wortsman et al. 2022, "Model soups".
 */
import { UserError } from '../common/errors.ts';
import { fromF32 } from '../common/numberFormats.ts';
import type { OnProgress } from '../common/progress.ts';
import { readFusionConfig } from '../model/config.ts';
import { validateTensors } from '../model/weights.ts';
import { type CheckpointTensor, openCheckpoint } from './folder.ts';
import { copyFiles, GENERATION_FILE, TOKENIZER_FILES, writeNewFolder, writeWeights } from './newFolder.ts';
import type { TensorEntry } from './safetensors.ts';
import { asWeightDtype } from './tensorBytes.ts';

export interface AverageOptions {
  /** Folders of checkpoints with the same tensors; the first gives dtypes, configuration and tokenizer. */
  readonly first: string;
  readonly second: string;
  /** Weight of the second, 0 to 1; the first has the rest. */
  readonly share: number;
  /** The new folder; it must not exist, or be empty. */
  readonly out: string;
  readonly onProgress?: OnProgress | undefined;
}

/** Writes the mean. Throws `UserError` where the two do not have the same tensors; then `out` is not made. */
export async function averageFolder(options: AverageOptions): Promise<void> {
  const { share, out } = options;
  if (!(share >= 0 && share <= 1)) throw new UserError(`share: expected a number from 0 to 1, got ${share}`);
  const [first, second] = [await openCheckpoint(options.first), await openCheckpoint(options.second)];
  validateTensors(await readFusionConfig(options.first), first);
  validateTensors(await readFusionConfig(options.second), second);
  const entryOf = ([name, { dtype, shape }]: readonly [string, CheckpointTensor]): TensorEntry => {
    const other = second.tensors.get(name)?.shape;
    if (other?.join() !== shape.join()) {
      throw new UserError(
        `${options.second}: ${name}: expected [${shape.join(', ')}] as in ${options.first}, got ${other ? `[${other.join(', ')}]` : 'none'}`,
      );
    }
    const stored = asWeightDtype(dtype, `${options.first}: tensor ${name}`);
    const data = async () => {
      const [mine, theirs] = [await first.readF32(name), await second.readF32(name)];
      return fromF32(
        stored,
        mine.map((x, i) => x + share * ((theirs[i] ?? x) - x)),
      );
    };
    return { name, dtype: stored, shape, data };
  };
  const entries = [...first.tensors].map(entryOf);
  await writeNewFolder(out, async (dir) => {
    await writeWeights(dir, entries, options);
    await copyFiles(options.first, dir, [...TOKENIZER_FILES, GENERATION_FILE, 'config.json']);
  });
}
