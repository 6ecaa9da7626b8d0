/** What observers of attention see: rows that sum to one, nothing where a mask is, and the softmax of q·k. */
import { describe, expect, it } from 'vitest';
import { Random } from '../common/random.ts';
import { equal, input, program, type Tensor } from '../graph/index.ts';
import { splitHeads } from '../graph/nn.ts';
import { LocalDevice } from '../runtime/localDevice.ts';
import type { HostTensor } from '../runtime/types.ts';
import { parseFusionConfig } from './config.ts';
import { causal } from './decoder.ts';
import { i32 } from './feeds.ts';
import { interactionLayer } from './interaction.ts';
import { parameterInputs, parameters } from './parameters.ts';
import { visionTower } from './vision.ts';
import { expectedTensors } from './weights.ts';

const TOWER = 'model.vision_tower.vision_tower.vision_model';
const [SIDE, PATCHES, WIDTH, HEADS, TEXT] = [8, 4, 8, 2, 3];
const ROWS = PATCHES + TEXT;
const EPSILON = 1e-6;

const random = new Random(6);
const normal = (shape: readonly number[], deviation = 1): HostTensor => {
  const data = new Float32Array(shape.reduce((a, b) => a * b, 1));
  random.fillNormal(data, deviation);
  return { dtype: 'f32', shape, data };
};
const device = new LocalDevice({ threads: 1 });

/** A tower of so many layers, fewer than a config may ask for. */
function configOf(layers: number, earlyTextRows: 'uniform' | 'masked') {
  const json = {
    model_type: 'fusion_llama',
    rope_theta: 10000,
    max_position_embeddings: 64,
    rms_norm_eps: 1e-5,
    vocab_size: 8,
    hidden_size: 16,
    intermediate_size: 16,
    num_hidden_layers: 1,
    num_attention_heads: 1,
    num_key_value_heads: 1,
    mm_vision_tower: 'test',
    query_len: '4',
    window_size: 1,
    num_of_vision_sampler_layers: 1,
    start_of_vision_sampler_layers: 0,
    stride_of_vision_sampler_layers: 1,
    early_text_rows: earlyTextRows,
    vision_config: {
      hidden_size: WIDTH,
      intermediate_size: 16,
      num_attention_heads: HEADS,
      num_hidden_layers: 3,
      image_size: SIDE,
      patch_size: 4,
      layer_norm_eps: EPSILON,
    },
  };
  const config = parseFusionConfig(json, 'test');
  return { ...config, vision: { ...config.vision, layers } };
}

/** The tower's attention in every layer: [H, rows, rows] each; and what went in. */
async function towerAttention(layers: number, mode: 'uniform' | 'masked', instructs: readonly number[]) {
  const config = configOf(layers, mode);
  const shapes = new Map([...expectedTensors(config)].filter(([name]) => name.startsWith(TOWER)));
  const question = {
    hiddenStates: input('text', 'f32', [1, TEXT, WIDTH]),
    padding: equal(input('instructs', 'i32', [1, TEXT]), 0),
  };
  const pixels = input('pixels', 'f32', [1, 3, SIDE, SIDE]);
  const seen: Record<string, Tensor> = {};
  visionTower(
    parameters(parameterInputs(shapes)).in(TOWER),
    pixels,
    config,
    question,
    undefined,
    (layer, weights) => {
      seen[layer] = weights;
    },
  );
  const weights = Object.fromEntries([...shapes].map(([name, shape]) => [name, normal(shape, 0.5)]));
  const feeds = {
    ...weights,
    pixels: normal([1, 3, SIDE, SIDE]),
    text: normal([1, TEXT, WIDTH]),
    instructs: i32(Int32Array.from(instructs), [1, TEXT]),
  };
  const { outputs } = await (await device.load(program('see', seen))).run(feeds);
  const maps = Array.from({ length: layers }, (_, layer) => {
    expect(outputs[layer]?.shape).toEqual([1, HEADS, ROWS, ROWS]);
    return outputs[layer]?.data as Float32Array;
  });
  return { maps, feeds };
}

type Feeds = Awaited<ReturnType<typeof towerAttention>>['feeds'];
const numbers = ({ data }: HostTensor): number[] => Array.from(data as Float32Array);

/** Rows of `x @ wᵀ + b`; wt: [out, in]. */
function project(x: readonly number[][], wt: HostTensor, bias: HostTensor): number[][] {
  const [w, b] = [numbers(wt), numbers(bias)];
  return x.map((row) =>
    b.map((offset, o) => row.reduce((s, v, i) => s + v * w[o * row.length + i]!, offset)),
  );
}

function layerNorm(x: readonly number[][], weight: HostTensor, bias: HostTensor): number[][] {
  const [w, b] = [numbers(weight), numbers(bias)];
  return x.map((row) => {
    const mean = row.reduce((s, v) => s + v, 0) / row.length;
    const variance = row.reduce((s, v) => s + (v - mean) ** 2, 0) / row.length;
    return row.map((v, i) => ((v - mean) / Math.sqrt(variance + EPSILON)) * w[i]! + b[i]!);
  });
}

/** Layer 0's input, patches then question, by loops: [rows][V]. */
function embeddedRows(feeds: Feeds): number[][] {
  const get = (name: string) => (feeds as Record<string, HostTensor>)[`${TOWER}.embeddings.${name}`]!;
  const [kernel, bias] = [numbers(get('patch_embedding.weight')), numbers(get('patch_embedding.bias'))];
  const [positions, pixels] = [numbers(get('position_embedding.weight')), numbers(feeds.pixels)];
  const patch = (row: number, column: number, o: number) => {
    let sum = bias[o]! + positions[(row * 2 + column) * WIDTH + o]!;
    for (let c = 0; c < 3; c++) {
      for (let y = 0; y < 4; y++) {
        for (let x = 0; x < 4; x++) {
          const pixel = pixels[(c * SIDE + row * 4 + y) * SIDE + column * 4 + x]!;
          sum += pixel * kernel[((o * 3 + c) * 4 + y) * 4 + x]!;
        }
      }
    }
    return sum;
  };
  const range = Array.from({ length: WIDTH }, (_, o) => o);
  const patches = Array.from({ length: PATCHES }, (_, p) =>
    range.map((o) => patch(Math.floor(p / 2), p % 2, o)),
  );
  const text = numbers(feeds.text);
  return [...patches, ...Array.from({ length: TEXT }, (_, t) => text.slice(t * WIDTH, (t + 1) * WIDTH))];
}

/** softmax(q·kᵀ/√E) over the keys that `sees` admits, by loops: [H][rows][rows]. */
function expectedAttention(feeds: Feeds, sees: (row: number, column: number) => boolean): number[][][] {
  const get = (name: string) => (feeds as Record<string, HostTensor>)[`${TOWER}.encoder.layers.0.${name}`]!;
  const x = layerNorm(embeddedRows(feeds), get('layer_norm1.weight'), get('layer_norm1.bias'));
  const [q, k] = ['q_proj', 'k_proj'].map((name) =>
    project(x, get(`self_attn.${name}.weight`), get(`self_attn.${name}.bias`)),
  ) as [number[][], number[][]];
  const size = WIDTH / HEADS;
  return Array.from({ length: HEADS }, (_, h) =>
    q.map((query, i) => {
      const scores = k.map((key, j) => {
        let dot = 0;
        for (let e = h * size; e < (h + 1) * size; e++) dot += query[e]! * key[e]!;
        return sees(i, j) ? Math.exp(dot / Math.sqrt(size)) : 0;
      });
      const total = scores.reduce((a, b) => a + b, 0);
      return scores.map((score) => score / total);
    }),
  );
}

describe('the tower', () => {
  const instructs = [1, 2, 0];
  const isPadding = (column: number) => column >= PATCHES && instructs[column - PATCHES] === 0;
  const isText = (row: number) => row >= PATCHES;
  const visible = {
    late: (_: number, column: number) => !isPadding(column),
    masked: (row: number, column: number) =>
      !isText(row) ? !isPadding(column) : row === column || (isText(column) && !isPadding(column)),
    uniform: (row: number, column: number) => isText(row) || !isPadding(column),
  };

  it.each(['late', 'masked', 'uniform'] as const)('shows the softmax of its q·k: %s rows', async (kind) => {
    const mode = kind === 'late' ? 'uniform' : kind;
    // One layer alone is none of the first half; of two the first is.
    const { maps, feeds } = await towerAttention(kind === 'late' ? 1 : 2, mode, instructs);
    const expected = expectedAttention(feeds, visible[kind]);
    for (const [h, head] of expected.entries()) {
      for (const [i, row] of head.entries()) {
        for (const [j, value] of row.entries()) {
          const even = kind === 'uniform' && isText(i);
          const got = maps[0]![(h * ROWS + i) * ROWS + j]!;
          expect(got).toBeCloseTo(even ? 1 / ROWS : value, 5);
          if (!visible[kind](i, j)) expect(got).toBe(0);
        }
      }
    }
  });

  it.each(['masked', 'uniform'] as const)('has rows that sum to one in every layer: %s', async (mode) => {
    const { maps } = await towerAttention(5, mode, instructs);
    expect(maps).toHaveLength(5);
    for (const [layer, map] of maps.entries()) {
      for (let row = 0; row < HEADS * ROWS; row++) {
        const weights = map.subarray(row * ROWS, (row + 1) * ROWS);
        expect(weights.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 5);
        const early = layer < 2;
        const sees = visible[early ? mode : 'late'];
        weights.forEach((weight, column) => {
          if (!sees(row % ROWS, column)) expect(weight).toBe(0);
        });
      }
    }
  });
});

it('the decoder shows rows that sum to one and see nothing that comes later', async () => {
  const [heads, kvHeads, sequence, size] = [4, 2, 5, 3];
  const [q, keys] = [
    input('q', 'f32', [1, sequence, heads * size]),
    input('k', 'f32', [1, sequence, kvHeads * size]),
  ];
  let seen: Tensor | undefined;
  const attend = causal(sequence, (weights) => {
    seen = weights;
  });
  const kv = { keys: splitHeads(keys, kvHeads), values: splitHeads(keys, kvHeads) };
  attend(splitHeads(q, heads), kv);
  const feeds = { q: normal([1, sequence, heads * size]), k: normal([1, sequence, kvHeads * size]) };
  const { outputs } = await (await device.load(program('see', { seen: seen! }))).run(feeds);
  expect(outputs.seen?.shape).toEqual([1, heads, sequence, sequence]);
  const [weights, qs, ks] = [numbers(outputs.seen!), numbers(feeds.q), numbers(feeds.k)];
  for (let h = 0; h < heads; h++) {
    for (let i = 0; i < sequence; i++) {
      const scores = Array.from({ length: sequence }, (_, j) => {
        let dot = 0;
        const shared = Math.floor(h / (heads / kvHeads));
        for (let e = 0; e < size; e++) {
          dot += qs[(i * heads + h) * size + e]! * ks[(j * kvHeads + shared) * size + e]!;
        }
        return j > i ? 0 : Math.exp(dot);
      });
      const total = scores.reduce((a, b) => a + b, 0);
      const row = weights.slice((h * sequence + i) * sequence, (h * sequence + i + 1) * sequence);
      for (const [j, value] of row.entries()) {
        expect(value).toBeCloseTo(scores[j]! / total, 5);
        if (j > i) expect(value).toBe(0);
      }
    }
  }
});

it('an interaction layer shows how each latent attends to its own window', async () => {
  const [width, latents, cells] = [16, 5, 4];
  const shapes = new Map(
    [...expectedTensors(configOf(1, 'masked'))]
      .filter(([name]) => name.startsWith('model.vision_sampler_layers.0.layers.0.'))
      .map(([name, shape]) => [name.replace('model.vision_sampler_layers.0.layers.0.', ''), shape]),
  );
  const { interaction } = configOf(1, 'masked');
  let seen: Tensor | undefined;
  interactionLayer(
    parameters(parameterInputs(shapes)),
    {
      latents: input('latents', 'f32', [latents, width]),
      questions: input('questions', 'f32', [latents, width]),
      windows: input('windows', 'f32', [3, cells, width]),
      windowIndex: input('index', 'i32', [latents]),
    },
    interaction,
    (weights) => {
      seen = weights;
    },
  );
  const executable = await device.load(program('see', { seen: seen! }));
  const weights = Object.fromEntries([...shapes].map(([name, shape]) => [name, normal(shape, 0.5)]));
  const windows = normal([3, cells, width]);
  const feeds = {
    ...weights,
    latents: normal([latents, width]),
    questions: normal([latents, width]),
    index: i32(Int32Array.of(0, 1, 2, 0, 1)),
  };
  const run = async (given: HostTensor) => (await executable.run({ ...feeds, windows: given })).outputs.seen!;
  const first = await run(windows);
  expect(first.shape).toEqual([latents, interaction.heads, 1, cells]);
  for (let row = 0; row < latents * interaction.heads; row++) {
    const sum = numbers(first)
      .slice(row * cells, (row + 1) * cells)
      .reduce((a, b) => a + b, 0);
    expect(sum).toBeCloseTo(1, 5);
  }
  // Two cells of window 1 change places: so do the weights of the latents that look at it, and only theirs.
  const swapped = (windows.data as Float32Array).slice();
  const [a, b] = [cells * width, (cells + 2) * width];
  swapped.copyWithin(a, b, b + width).set((windows.data as Float32Array).slice(a, a + width), b);
  const second = numbers(await run({ ...windows, data: swapped }));
  for (let latent = 0; latent < latents; latent++) {
    for (let h = 0; h < interaction.heads; h++) {
      const at = (latent * interaction.heads + h) * cells;
      const [before, after] = [numbers(first).slice(at, at + cells), second.slice(at, at + cells)];
      const order = latent % 3 === 1 ? [2, 1, 0, 3] : [0, 1, 2, 3];
      for (const [cell, from] of order.entries()) expect(after[cell]).toBeCloseTo(before[from]!, 5);
    }
  }
});
