/**
 * Which part of a model is kept in which format, and what a converted folder's config.json says of it. Knows no
 * bytes. docs/quantisation.md has the layout.
 */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { messageOf, UserError } from '../../common/errors.ts';
import type { Part } from '../../model/weights.ts';
import { isRecord, kindOf, parseJsonObject } from '../jsonText.ts';

export const WEIGHT_FORMATS = ['int4', 'int8', 'f16', 'f32'] as const;
export type WeightFormat = (typeof WEIGHT_FORMATS)[number];

/** The format of the Linears of each part. */
export interface PartFormats {
  readonly decoder: WeightFormat;
  readonly lm_head: WeightFormat;
  readonly vision: WeightFormat;
  readonly projectors: WeightFormat;
  readonly interaction: WeightFormat;
}

/** What config.json says of a converted folder. */
export interface Quantization {
  readonly formats: PartFormats;
}

/** What config.json in `dir` says of the folder's weights. @throws UserError as `parseQuantization`. */
export async function readQuantization(dir: string): Promise<Quantization | undefined> {
  const file = path.join(dir, 'config.json');
  const bytes = await readFile(file).catch((error: unknown) => {
    throw new UserError(`${file}: expected a FUSION checkpoint's config.json, got ${messageOf(error)}`);
  });
  return parseQuantization(parseJsonObject(bytes, file), file);
}

/** The key of config.json, and the version of the layout that this code reads and writes. */
export const QUANTIZATION_KEY = 'fusion_quantization';
export const LAYOUT_VERSION = 1;

const PART_NAMES = [
  'decoder',
  'lm_head',
  'vision',
  'projectors',
  'interaction',
] as const satisfies readonly (keyof PartFormats)[];

const PART_OF: Readonly<Record<Part, keyof PartFormats | undefined>> = {
  vision_tower: 'vision',
  mm_projector: 'projectors',
  aux_projector: 'projectors',
  interaction: 'interaction',
  decoder: 'decoder',
  embeddings: undefined,
  lm_head: 'lm_head',
};

/** The format of a part's Linears; undefined for what has none. */
export function formatOfPart(formats: PartFormats, part: Part | undefined): WeightFormat | undefined {
  const name = part === undefined ? undefined : PART_OF[part];
  return name === undefined ? undefined : formats[name];
}

/** The formats that `weights` means, with `chosen` in their place: of int4 only the decoder's layers are int4. */
export function partFormats(weights: WeightFormat, chosen: Partial<PartFormats> = {}): PartFormats {
  const others = weights === 'int4' ? 'int8' : weights;
  const given = Object.fromEntries(Object.entries(chosen).filter(([, format]) => format !== undefined));
  return {
    decoder: weights,
    lm_head: others,
    vision: others,
    projectors: others,
    interaction: others,
    ...given,
  };
}

/** The value of `fusion_quantization` in config.json. */
export function quantizationJson({ formats }: Quantization): Record<string, unknown> {
  return { version: LAYOUT_VERSION, block: 32, formats };
}

/**
 * What `config` (config.json) says of its folder's weights; undefined for a folder that was not converted.
 *
 * @throws UserError naming `where` for another version of the layout, and for a section that is none.
 */
export function parseQuantization(
  config: Readonly<Record<string, unknown>>,
  where: string,
): Quantization | undefined {
  const section = config[QUANTIZATION_KEY];
  if (section === undefined) return undefined;
  const at = `${where}: ${QUANTIZATION_KEY}`;
  if (!isRecord(section)) throw new UserError(`${at}: expected an object, got ${kindOf(section)}`);
  const { version, block, formats } = section;
  if (version !== LAYOUT_VERSION || block !== 32) {
    const got = `version ${kindOf(version)} with blocks of ${kindOf(block)}`;
    throw new UserError(
      `${at}: expected version ${LAYOUT_VERSION} with blocks of 32, got ${got}; convert the model again with this program`,
    );
  }
  if (!isRecord(formats)) throw new UserError(`${at}.formats: expected an object, got ${kindOf(formats)}`);
  const read = PART_NAMES.map((part) => {
    const format = WEIGHT_FORMATS.find((name) => name === formats[part]);
    if (format !== undefined) return [part, format] as const;
    throw new UserError(
      `${at}.formats.${part}: expected one of ${WEIGHT_FORMATS.join(', ')}, got ${kindOf(formats[part])}`,
    );
  });
  return { formats: Object.fromEntries(read) as unknown as PartFormats };
}
