/**
 * `fusion inspect`: what a checkpoint folder holds and what running it takes. Reads config.json and the headers
 * of the tensor files, never the weights.
 */
import path from 'node:path';
import type { Command } from 'commander';
import type { Checkpoint } from '../checkpoint/folder.ts';
import type { FusionConfig } from '../model/config.ts';
import { findModel } from './modelName.ts';

const GIGABYTE = 1e9;
/** The context that memory is estimated for where the model allows a much longer one. */
const USUAL_CONTEXT = 4096;

export function registerInspect(program: Command): void {
  program
    .command('inspect')
    .description('show variant, sizes, parameters by part, dtypes and memory of a checkpoint')
    .argument('<dir>', 'folder of the checkpoint, or its id on the hub')
    .option('--json', 'one JSON object')
    .action(inspect);
}

async function inspect(model: string, flags: { readonly json?: boolean }): Promise<void> {
  const dir = await findModel(model);
  const { readFusionConfig } = await import('../model/config.ts');
  const { openCheckpoint } = await import('../checkpoint/folder.ts');
  const { validateTensors } = await import('../model/weights.ts');
  const config = await readFusionConfig(dir);
  const checkpoint = await openCheckpoint(dir);
  validateTensors(config, checkpoint);
  const facts = await collect(config, checkpoint);
  process.stdout.write(flags.json ? `${JSON.stringify(facts, undefined, 2)}\n` : describe(facts));
}

type Facts = Awaited<ReturnType<typeof collect>>;

async function collect(config: FusionConfig, checkpoint: Checkpoint) {
  const { describeVariant } = await import('../model/config.ts');
  const { contextLength } = await import('../generate/limits.ts');
  const { vision, decoder, interaction } = config;
  return {
    dir: checkpoint.dir,
    variant: describeVariant(config),
    model_type: config.modelType,
    vision: {
      tower: vision.tower,
      layers: vision.layers,
      hidden_size: vision.hiddenSize,
      image_size: vision.imageSize,
      image_tokens: config.imageTokensSide === undefined ? vision.patches : config.imageTokensSide ** 2,
    },
    decoder: {
      kind: decoder.kind,
      layers: decoder.layers,
      hidden_size: decoder.hiddenSize,
      heads: decoder.heads,
      kv_heads: decoder.kvHeads,
      vocabulary: decoder.vocabSize,
    },
    interaction_layers: interaction.layers,
    query_lengths: config.queryLens,
    default_query_length: config.defaultQueryLen,
    context: contextLength(config),
    ...(await contents(checkpoint)),
    memory_bytes: await memory(config),
  };
}

/** Parameters by part, dtypes, and files. */
async function contents({ tensors }: Checkpoint) {
  const { partOf } = await import('../model/weights.ts');
  const parameters: Record<string, number> = {};
  const dtypes: Record<string, number> = {};
  const files: Record<string, number> = {};
  let total = 0;
  for (const [name, { shape, dtype, byteLength, file }] of tensors) {
    const count = shape.reduce((a, b) => a * b, 1);
    const part = partOf(name) ?? 'other';
    parameters[part] = (parameters[part] ?? 0) + count;
    dtypes[dtype] = (dtypes[dtype] ?? 0) + count;
    const base = path.basename(file);
    files[base] = (files[base] ?? 0) + byteLength;
    total += count;
  }
  return { parameters, total_parameters: total, dtypes, file_bytes: files, tensors: tensors.size };
}

/** What answering takes, without the working memory of a run. */
async function memory(config: FusionConfig) {
  const { cacheBytesPerPosition } = await import('../generate/kvCache.ts');
  const { contextLength } = await import('../generate/limits.ts');
  const { weightsInMemory } = await import('../generate/memoryNeeds.ts');
  const weights = weightsInMemory(config, undefined);
  const position = cacheBytesPerPosition(config.decoder);
  const context = Math.min(contextLength(config), USUAL_CONTEXT);
  const image = 4 * 4 * config.vision.patches * config.decoder.hiddenSize;
  return {
    weights_f32: weights,
    cache_per_1000_tokens: 1000 * position,
    features_per_image: image,
    total: weights + context * position + image,
    total_context: context,
  };
}

function describe(facts: Facts): string {
  const { vision, decoder, memory_bytes: memory } = facts;
  const parts = Object.entries(facts.parameters).map(([part, n]) => `  ${part.padEnd(14)} ${count(n)}`);
  const files = Object.entries(facts.file_bytes).map(([file, n]) => `  ${file}  ${bytes(n)}`);
  const dtypes = Object.entries(facts.dtypes).map(([dtype, n]) => `${dtype} (${count(n)})`);
  return `${[
    `${facts.variant} (${facts.model_type})`,
    `vision    ${vision.tower}: ${vision.layers} layers, width ${vision.hidden_size}, ${vision.image_size} px crops, ${vision.image_tokens} image tokens`,
    `decoder   ${decoder.kind}: ${decoder.layers} layers, width ${decoder.hidden_size}, ${decoder.heads} heads (${decoder.kv_heads} kv), ${decoder.vocabulary} tokens`,
    `between   ${facts.interaction_layers} interaction layers; query lengths ${facts.query_lengths.join(', ')} (default ${facts.default_query_length})`,
    `context   ${facts.context} tokens`,
    `weights   ${count(facts.total_parameters)} parameters in ${facts.tensors} tensors, ${dtypes.join(', ')}`,
    ...parts,
    'files',
    ...files,
    `memory    about ${bytes(memory.total)} in f32 with a context of ${memory.total_context}, and room to work`,
    `  weights        ${bytes(memory.weights_f32)}`,
    `  kv cache       ${bytes(memory.cache_per_1000_tokens)} per 1000 tokens`,
    `  image          ${bytes(memory.features_per_image)} of features each`,
  ].join('\n')}\n`;
}

/** `8.03 B`, `402 k`. */
function count(n: number): string {
  if (n >= GIGABYTE) return `${(n / 1e9).toFixed(2)} B`;
  if (n >= 1e6) return `${(n / 1e6).toFixed(1)} M`;
  return n >= 1e3 ? `${(n / 1e3).toFixed(1)} k` : `${n}`;
}

function bytes(n: number): string {
  if (n >= GIGABYTE) return `${(n / 1e9).toFixed(2)} GB`;
  return n >= 1e6 ? `${(n / 1e6).toFixed(1)} MB` : `${(n / 1e3).toFixed(1)} kB`;
}
