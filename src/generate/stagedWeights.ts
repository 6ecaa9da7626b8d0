/**
 * A converted folder's weights as the stages of the model take them: rounded ones used in place in their files, the
 * others loaded in f32, rows of the token embeddings read as they are needed. Knows nothing of programs.
 */
import type { Checkpoint } from '../checkpoint/folder.ts';
import { loadTensors, type ResidentWeights } from '../checkpoint/loadWeights.ts';
import { EmbeddingRows } from '../checkpoint/quantise/embeddingRows.ts';
import type { Quantization } from '../checkpoint/quantise/formats.ts';
import { codesName, EMBEDDINGS, openStored, scalesName } from '../checkpoint/quantise/stored.ts';
import type { OnProgress } from '../common/progress.ts';
import type { FusionConfig } from '../model/config.ts';
import type { RoundedInput, StageWeights, WeightInput } from '../model/stages.ts';
import type { Constants, Device, FileConstant } from '../runtime/types.ts';

export interface StagedWeights extends StageWeights {
  /** f32, by name. */
  readonly resident: ResidentWeights;
  /** Codes and scales, by name. */
  readonly constants: Constants;
  readonly embeddings: EmbeddingRows;
}

/** Loads the weights of a converted folder. @throws UserError as `openStored`. */
export async function loadStaged(
  device: Device,
  config: FusionConfig,
  checkpoint: Checkpoint,
  { formats }: Quantization,
  onProgress?: OnProgress,
): Promise<StagedWeights> {
  const { plain, rounded } = openStored(config, formats, checkpoint);
  const inputs = new Map<string, WeightInput>();
  const constants: Record<string, FileConstant> = {};
  const names = new Map<string, RoundedInput>();
  for (const [name, weight] of rounded) {
    const { bits, codes, scales } = weight;
    names.set(name, { bits, codes: codesName(weight), scales: scalesName(weight) });
    constants[codesName(weight)] = { ...codes, dtype: 'u8' };
    constants[scalesName(weight)] = { ...scales, dtype: 'f32' };
  }
  for (const [name, { dtype, shape }] of Object.entries(constants)) inputs.set(name, { dtype, shape });
  const loaded = [...plain].filter(([name]) => name !== EMBEDDINGS);
  for (const [name, { shape }] of loaded) inputs.set(name, { dtype: 'f32', shape });
  const table = plain.get(EMBEDDINGS);
  if (table === undefined) throw new Error('internal: a converted folder without embeddings');
  const embeddings = await EmbeddingRows.open(table);
  try {
    const resident = await loadTensors(device, loaded, onProgress);
    return { inputs, rounded: names, resident, constants, embeddings };
  } catch (error) {
    await embeddings.close();
    throw error;
  }
}
