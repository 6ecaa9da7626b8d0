/**
 * The table of a converted folder's tensors: what is kept under which name, in which dtype and shape, and whether a
 * folder holds just that. Knows no bytes. docs/quantisation.md has the layout.
 */
import { UserError } from '../../common/errors.ts';
import type { Dtype } from '../../common/numberFormats.ts';
import { codesShape } from '../../graph/nBits.ts';
import type { FusionConfig } from '../../model/config.ts';
import { expectedTensors, partOf, type Shape } from '../../model/weights.ts';
import type { Checkpoint, CheckpointTensor } from '../folder.ts';
import { formatOfPart, type PartFormats } from './formats.ts';
import type { Bits } from './quantise.ts';

/** A tensor that is copied. */
export interface PlainTensor {
  /** The checkpoint's name. */
  readonly name: string;
  readonly dtype: 'F32' | 'F16';
  readonly shape: Shape;
}

/** A Linear's weight that is rounded: two tensors. */
export interface RoundedTensor {
  /** The checkpoint's name of the weight. */
  readonly name: string;
  readonly bits: Bits;
  readonly out: number;
  readonly width: number;
}

export interface StoredTensors {
  readonly plain: readonly PlainTensor[];
  readonly rounded: readonly RoundedTensor[];
}

/** A rounded weight in a folder. */
export interface RoundedWeight extends RoundedTensor {
  readonly codes: CheckpointTensor;
  readonly scales: CheckpointTensor;
}

/** The tensors of a converted folder. */
export interface StoredWeights {
  readonly plain: ReadonlyMap<string, CheckpointTensor>;
  readonly rounded: ReadonlyMap<string, RoundedWeight>;
}

export const EMBEDDINGS = 'model.embed_tokens.weight';

export const codesName = ({ name, bits }: RoundedTensor): string => `${name}.q${bits}`;
export const scalesName = ({ name }: RoundedTensor): string => `${name}.scales`;

/**
 * What a folder of `config` in these formats holds. Norms, biases and position tables are F32; the token embeddings,
 * of which rows are read as they are needed, F16 unless lm_head is f32. An embedding that is also the head is kept a
 * second time, rounded.
 */
export function storedTensors(config: FusionConfig, formats: PartFormats): StoredTensors {
  const plain: PlainTensor[] = [];
  const rounded: RoundedTensor[] = [];
  for (const [name, shape] of expectedTensors(config)) {
    const format = isLinear(name, shape) ? formatOfPart(formats, partOf(name)) : undefined;
    const [out = 0, width = 0] = shape;
    if (format === 'int4' || format === 'int8') rounded.push({ name, bits: bitsOf(format), out, width });
    else plain.push({ name, dtype: plainDtype(name, format, formats), shape });
  }
  if (config.decoder.tiedEmbeddings) {
    const { vocabSize: out, hiddenSize: width } = config.decoder;
    rounded.push({ name: EMBEDDINGS, bits: bitsOf(formats.lm_head), out, width });
  }
  return { plain, rounded };
}

const bitsOf = (format: string): Bits => (format === 'int4' ? 4 : 8);

function plainDtype(name: string, format: string | undefined, formats: PartFormats): 'F32' | 'F16' {
  if (name === EMBEDDINGS) return formats.lm_head === 'f32' ? 'F32' : 'F16';
  return format === 'f16' ? 'F16' : 'F32';
}

/** Whether a product is taken with the tensor: a matrix that is no table of rows. */
function isLinear(name: string, shape: Shape): boolean {
  return shape.length === 2 && name !== EMBEDDINGS && !name.endsWith('position_embedding.weight');
}

/**
 * The tensors of a converted folder.
 *
 * @throws UserError naming the first tensor that is missing, of another shape or dtype, or not of the model.
 */
export function openStored(
  config: FusionConfig,
  formats: PartFormats,
  checkpoint: Checkpoint,
): StoredWeights {
  const { plain, rounded } = storedTensors(config, formats);
  const known = new Set<string>();
  const find = (name: string, dtype: Dtype, shape: Shape): CheckpointTensor => {
    known.add(name);
    const tensor = checkpoint.tensors.get(name);
    if (tensor?.dtype === dtype && tensor.shape.join() === shape.join()) return tensor;
    const got = tensor === undefined ? 'none' : `${tensor.dtype} [${tensor.shape.join(', ')}]`;
    throw wrong(checkpoint, `tensor ${name}: expected ${dtype} [${shape.join(', ')}], got ${got}`);
  };
  const found = {
    plain: new Map(plain.map(({ name, dtype, shape }) => [name, find(name, dtype, shape)])),
    rounded: new Map(
      rounded.map((tensor) => {
        const shape = codesShape(tensor.out, tensor.width, tensor.bits);
        const codes = find(codesName(tensor), 'U8', shape);
        const scales = find(scalesName(tensor), 'F32', shape.slice(0, 2));
        return [tensor.name, { ...tensor, codes, scales }];
      }),
    ),
  };
  const extra = [...checkpoint.tensors.keys()].find((name) => !known.has(name));
  if (extra === undefined) return found;
  throw wrong(checkpoint, `expected only tensors that config.json describes, got ${extra}`);
}

const wrong = ({ dir }: Checkpoint, fault: string): UserError =>
  new UserError(`${dir}: ${fault}; convert the model again`);
