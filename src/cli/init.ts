/**
 * `fusion init`: a checkpoint to start from, built of a language model's folder and a SigLIP's, or of random weights.
 */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { messageOf, UserError } from '../common/errors.ts';
import { terminalProgress } from '../common/progress.ts';
import type { FusionConfig } from '../model/config.ts';
import { DTYPES, type DtypeFlag, weightDtype } from './dtypeOption.ts';
import { findModel } from './modelName.ts';

type Flags = {
  readonly out: string;
  readonly decoder?: string;
  readonly tower?: string;
  readonly towerName?: string;
  readonly random?: boolean;
  readonly variant?: string;
  readonly config?: string;
  readonly tokenizer?: string;
  readonly embeddingStd?: number;
  readonly seed: number;
  readonly dtype: DtypeFlag;
  readonly quiet?: boolean;
} & KeyFlags;

/** Options that become keys of config.json. */
type KeyFlags = {
  readonly queryLen?: string;
  readonly window?: number;
  readonly interactionLayers?: number;
  readonly interactionStart?: number;
  readonly interactionStride?: number;
  readonly projector?: string;
  readonly imageTokensSide?: number;
  readonly maxLength?: number;
  readonly conversationFormat?: string;
  readonly textGuidance: boolean;
};

const EXAMPLES = `
Examples:
  fusion init --decoder Llama-3.1-8B-Instruct --tower siglip-so400m-patch14-384 --out start
  fusion init --random --variant fusion-x-phi3.5-3b --out random
  fusion init --random --config config.json --tokenizer DIR --dtype f32 --out random
  fusion init --random --config config.json --tokenizer DIR --tower models/tiny --out seeing`;

export function registerInit(program: Command): void {
  const command = program
    .command('init')
    .description('make a checkpoint to train from: of two base models, or of random weights')
    .requiredOption('-o, --out <dir>', 'folder to make')
    .option('--decoder <dir>', 'folder or hub id of a Llama or Phi-3 model')
    .option('--tower <dir>', 'folder or hub id of a SigLIP or SigLIP2 model; with --random of a FUSION one')
    .option('--tower-name <name>', "mm_vision_tower in config.json (default: the tower's id or folder)")
    .option('--random', 'random weights, with --variant or --config')
    .option('--variant <name>', 'a released variant, such as fusion-x-phi3.5-3b')
    .option('--config <file>', "a FUSION checkpoint's config.json")
    .option('--tokenizer <dir>', "folder of the tokenizer (default: the decoder's)")
    .option('--embedding-std <x>', 'standard deviation of random embeddings (default: 0.02)', decimal)
    .option('--seed <n>', 'of the fresh weights', integer, 0)
    .addOption(new Option('--dtype <name>', 'dtype of the weights').choices(DTYPES).default('bf16'))
    .option('-q, --quiet', 'no progress');
  addKeyOptions(command).addHelpText('after', EXAMPLES).action(init);
}

function addKeyOptions(command: Command): Command {
  return command
    .option('--query-len <list>', 'latent tokens per question (default: 4,16,36,64,144)')
    .option('--window <n>', 'context cells along a side of a window (default: 3)', integer)
    .option('--interaction-layers <n>', 'interaction layers (default: 10, fewer in small decoders)', integer)
    .option('--interaction-start <n>', 'decoder layer the first one follows (default: 0)', integer)
    .option('--interaction-stride <n>', 'decoder layers between two (default: 3)', integer)
    .option('--no-text-guidance', 'the vision tower does not read the question: for comparisons')
    .option('--projector <type>', 'linear or mlpNx_gelu (default: mlp2x_gelu)')
    .option('--image-tokens-side <n>', 'FUSION-L: resize the image tokens to n × n', integer)
    .option('--max-length <n>', 'positions a sequence is cut to (default: 4096)', integer)
    .option('--conversation-format <name>', "where it is not the decoder's usual one");
}

async function init(flags: Flags): Promise<void> {
  const { describeVariant } = await import('../model/config.ts');
  const onProgress = terminalProgress(process.stderr, { enabled: !flags.quiet });
  const { out, seed, tokenizer } = flags;
  let config: FusionConfig;
  try {
    config = await (flags.random ? random : fromBase)(flags, { out, seed, tokenizer, onProgress });
  } finally {
    onProgress.end();
  }
  const variant = describeVariant(config);
  await writeCard(flags, variant);
  process.stdout.write(`${flags.out}: ${variant}\n`);
}

/** What the checkpoint was made of, for those who train it and for the cards of what they make. */
async function writeCard({ out, decoder, tower, quiet }: Flags, variant: string): Promise<void> {
  const { sourceAt } = await import('../train/baseModels.ts');
  const { writeModelCard } = await import('../train/modelCard.ts');
  const folders = [decoder, tower].filter((name) => name !== undefined);
  const bases = await Promise.all(folders.map((name) => findModel(name, quiet)));
  await writeModelCard(out, {
    name: path.basename(path.resolve(out)),
    variant,
    languages: ['en'],
    baseModels: bases.map(sourceAt),
    data: [],
    stages: [],
    folder: out,
  });
}

type Common = {
  readonly out: string;
  readonly seed: number;
  readonly tokenizer: string | undefined;
  readonly onProgress: ReturnType<typeof terminalProgress>;
};

async function fromBase(flags: Flags, common: Common): Promise<FusionConfig> {
  const { initFromBase } = await import('../checkpoint/fromBase.ts');
  refuse(flags, ['variant', 'config', 'embeddingStd'], 'without --random');
  const { decoder, tower, towerName } = flags;
  if (decoder === undefined || tower === undefined) {
    throw new UserError('init: expected --decoder DIR and --tower DIR, or --random');
  }
  const dtype = weightDtype(flags.dtype);
  const bases = {
    decoder: await findModel(decoder, flags.quiet),
    tower: await findModel(tower, flags.quiet),
  };
  return initFromBase({ ...common, ...bases, towerName, dtype, keys: configKeys(flags) });
}

async function random(flags: Flags, common: Common): Promise<FusionConfig> {
  const { initRandom } = await import('../checkpoint/fromBase.ts');
  refuse(flags, ['decoder', 'towerName'], 'with --random');
  const dtype = weightDtype(flags.dtype);
  if (dtype === 'same') throw new UserError('dtype: expected bf16, f16 or f32 with --random, got same');
  const { json, where } = await givenConfig(flags);
  const merged = { ...json, ...configKeys(flags) };
  const tower = flags.tower === undefined ? undefined : await findModel(flags.tower, flags.quiet);
  return initRandom({ ...common, json: merged, where, dtype, embeddingStd: flags.embeddingStd, tower });
}

async function givenConfig({ variant, config }: Flags) {
  const { variantJson } = await import('../checkpoint/baseConfigs.ts');
  if ((variant === undefined) === (config === undefined)) {
    throw new UserError('init: expected --variant NAME or --config FILE with --random, and not both');
  }
  if (config === undefined) return { json: variantJson(variant ?? ''), where: String(variant) };
  const { parseJsonObject } = await import('../checkpoint/jsonText.ts');
  const bytes = await readFile(config).catch((error: unknown) => {
    throw new UserError(`${config}: expected a config.json, got ${messageOf(error)}`);
  });
  return { json: parseJsonObject(bytes, config), where: config };
}

function configKeys(flags: KeyFlags): Record<string, unknown> {
  const keys = {
    query_len: flags.queryLen,
    window_size: flags.window,
    num_of_vision_sampler_layers: flags.interactionLayers,
    start_of_vision_sampler_layers: flags.interactionStart,
    stride_of_vision_sampler_layers: flags.interactionStride,
    mm_projector_type: flags.projector,
    image_tokens_side: flags.imageTokensSide,
    tokenizer_model_max_length: flags.maxLength,
    conversation_format: flags.conversationFormat,
    text_guided: flags.textGuidance ? undefined : false,
  };
  return Object.fromEntries(Object.entries(keys).filter(([, value]) => value !== undefined));
}

/** Options that would be ignored are mistakes. */
function refuse(flags: Flags, names: readonly (keyof Flags)[], when: string): void {
  const given = names.find((name) => flags[name] !== undefined);
  if (given === undefined) return;
  const option = given.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
  throw new UserError(`init: expected no --${option} ${when}, got ${flags[given]}`);
}

function integer(text: string): number {
  if (/^[+-]?\d+$/.test(text) && Number.isSafeInteger(Number(text))) return Number(text);
  throw new InvalidArgumentError('Expected an integer.');
}

function decimal(text: string): number {
  if (text.trim() !== '' && Number.isFinite(Number(text)) && Number(text) > 0) return Number(text);
  throw new InvalidArgumentError('Expected a number above 0.');
}
