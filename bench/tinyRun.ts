/**
 * A training run that takes seconds: a very small model of random weights, its tokenizer, a data set of coloured
 * squares, and a configuration. Written to a folder for `fusion train`.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import sharp from 'sharp';
import { stringify } from 'yaml';
import { initRandom } from '../src/checkpoint/fromBase.ts';
import { writeJson } from '../src/checkpoint/newFolder.ts';
import { makeTokenizer } from '../src/data/bpe.ts';

const COLOURS = ['red', 'green', 'blue', 'yellow', 'black', 'white', 'purple', 'orange'] as const;

/** 64 px would do as well; smaller crops make shorter tests. */
const MODEL = {
  architectures: ['FusionLlamaForCausalLM'],
  model_type: 'fusion_llama',
  vocab_size: 320,
  hidden_size: 32,
  intermediate_size: 64,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  max_position_embeddings: 1024,
  hidden_act: 'silu',
  tie_word_embeddings: false,
  mm_vision_tower: 'fusion-vl/test-tower-patch8-32',
  mm_projector_type: 'mlp2x_gelu',
  mm_vision_select_layer: -2,
  mm_use_im_start_end: true,
  query_len: '4',
  window_size: 3,
  num_of_vision_sampler_layers: 1,
  start_of_vision_sampler_layers: 0,
  stride_of_vision_sampler_layers: 1,
  image_aspect_ratio: 'static_hd',
  tokenizer_model_max_length: 512,
  conversation_format: 'plain',
  eos_token_id: 3,
  pad_token_id: 0,
  vision_config: {
    hidden_size: 16,
    intermediate_size: 32,
    num_attention_heads: 2,
    num_hidden_layers: 3,
    image_size: 32,
    patch_size: 8,
    layer_norm_eps: 1e-6,
    hidden_act: 'gelu_pytorch_tanh',
  },
};

/** The folders and files of a tiny run, all in one folder. */
export interface TinyRun {
  readonly base: string;
  readonly data: string;
  readonly config: string;
}

/** A record of LLaVA's JSON. */
export type Json = Readonly<Record<string, unknown>>;

/** Sample `i`: every fourth without an image. */
export function tinyRecord(i: number): Json {
  const colour = COLOURS[i % COLOURS.length] ?? COLOURS[0];
  const isText = i % 4 === 3;
  const question = isText ? `Say the word ${colour} in sentence ${i}.` : '<image>\nWhich colour is it?';
  return {
    id: `sample-${i}`,
    ...(isText ? {} : { image: `${colour}.png` }),
    conversations: [
      { from: 'human', value: question },
      { from: 'gpt', value: isText ? `The word is ${colour}.` : `It is ${colour}.` },
    ],
  };
}

/** Writes `base`, the pictures, `data.json` with `records` and `train.yaml` with `keys` into `dir`. */
export async function makeTinyRun(dir: string, records: readonly Json[], keys: Json = {}): Promise<TinyRun> {
  const run = {
    base: path.join(dir, 'base'),
    data: path.join(dir, 'data.json'),
    config: path.join(dir, 'train.yaml'),
  };
  const tokenizer = path.join(dir, 'tokenizer');
  await mkdir(tokenizer, { recursive: true });
  const texts = COLOURS.map((colour) => `It is ${colour}. The word is ${colour}. Which colour is it?`);
  const made = makeTokenizer(texts, MODEL.vocab_size);
  await writeJson(path.join(tokenizer, 'tokenizer.json'), made.tokenizer);
  await writeJson(path.join(tokenizer, 'tokenizer_config.json'), made.config);
  await initRandom({ json: MODEL, where: 'tiny', out: run.base, tokenizer, dtype: 'F32', embeddingStd: 0.1 });
  for (const background of COLOURS) {
    const square = { width: 32, height: 32, channels: 3, background } as const;
    await sharp({ create: square })
      .png()
      .toFile(path.join(dir, `${background}.png`));
  }
  await writeJson(run.data, records);
  await writeTinyConfig(run.config, keys);
  return run;
}

/** Writes a configuration of one stage on `data.json`; `keys` replace or add to it. */
export async function writeTinyConfig(file: string, keys: Json = {}): Promise<void> {
  const stage = {
    name: 'tiny',
    stage: '1',
    data: 'data.json',
    learning_rates: [['.*', 1e-3]],
    batch_size: 2,
    max_length: 256,
    max_steps: 4,
    log_every: 1,
    save_every: 100,
    seed: 1,
    ...keys,
  };
  await writeFile(file, stringify(stage));
}
