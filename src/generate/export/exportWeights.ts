/**
 * The weights of an export: those of a checkpoint widened to F32, those of a converted folder with their rounded
 * Linears as they are. Written piece by piece, so that memory stays small. Knows nothing of the graphs that read them.
 */
import type { Checkpoint, CheckpointTensor } from '../../checkpoint/folder.ts';
import {
  codesName,
  openStored,
  type RoundedWeight,
  type StoredWeights,
  scalesName,
} from '../../checkpoint/quantise/stored.ts';
import { readRange, type TensorEntry } from '../../checkpoint/safetensors.ts';
import { tensorPieces } from '../../checkpoint/tensorBytes.ts';
import { input, type Tensor } from '../../graph/index.ts';
import type { Overlay } from '../../model/programs.ts';
import { type QuantisedWeight, withQuantised } from '../../model/quantisedParameters.ts';
import { expectedTensors } from '../../model/weights.ts';
import type { Constants, FileConstant } from '../../runtime/types.ts';
import type { ModelFiles } from '../model.ts';

/** Bytes that are copied at a time. */
const PIECE = 2 ** 22;

/** The weights that a model uses, where they lie. */
export function weightsToExport({ config, checkpoint, quantization }: ModelFiles): StoredWeights {
  if (quantization !== undefined) return openStored(config, quantization.formats, checkpoint);
  const names = [...expectedTensors(config).keys()];
  const plain = new Map(names.map((name) => [name, checkpoint.tensors.get(name) as CheckpointTensor]));
  return { plain, rounded: new Map() };
}

/** The tensors to write, under the names that the graphs have for them; F32 first. */
export function exportedEntries({ plain, rounded }: StoredWeights): readonly TensorEntry[] {
  const widened = [...plain].map(([name, tensor]): TensorEntry => {
    return { name, dtype: 'F32', shape: tensor.shape, data: () => tensorPieces(tensor, 'F32') };
  });
  const same = [...rounded.values()].flatMap((weight) => [
    copied(codesName(weight), weight.codes),
    copied(scalesName(weight), weight.scales),
  ]);
  return [...widened, ...same];
}

function copied(name: string, { dtype, shape, file, begin, byteLength }: CheckpointTensor): TensorEntry {
  const data = async function* () {
    for (let at = 0; at < byteLength; at += PIECE) {
      yield await readRange(file, begin + at, Math.min(PIECE, byteLength - at));
    }
  };
  return { name, dtype, shape, data };
}

/** What was written, as constants of programs. */
export function constantsOf({ tensors }: Checkpoint): Constants {
  return Object.fromEntries(
    [...tensors].map(([name, { dtype, ...place }]): readonly [string, FileConstant] => [
      name,
      { ...place, dtype: dtype === 'U8' ? 'u8' : 'f32' },
    ]),
  );
}

/** Rounded weights in the place of the model's; undefined where there are none. */
export function roundedOverlay(rounded: ReadonlyMap<string, RoundedWeight>): Overlay | undefined {
  if (rounded.size === 0) return undefined;
  const tensors = new Map<string, Tensor>();
  const weights = new Map<string, QuantisedWeight>();
  for (const [name, weight] of rounded) {
    const codes = input(codesName(weight), 'u8', weight.codes.shape);
    const scales = input(scalesName(weight), 'f32', weight.scales.shape);
    tensors.set(codesName(weight), codes).set(scalesName(weight), scales);
    weights.set(name, { bits: weight.bits, codes, scales });
  }
  return { tensors, wrap: (base) => withQuantised(base, weights) };
}
