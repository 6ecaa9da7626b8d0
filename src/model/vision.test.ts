/** What the released `uniform` and the paper's `masked` early text rows may and may not see. */
import { describe, expect, it } from 'vitest';
import { Random } from '../common/random.ts';
import { equal, input, program, slice } from '../graph/index.ts';
import { LocalDevice } from '../runtime/localDevice.ts';
import type { HostTensor } from '../runtime/types.ts';
import { type FusionConfig, parseFusionConfig } from './config.ts';
import { parameterInputs, parameters } from './parameters.ts';
import { visionTower } from './vision.ts';
import { expectedTensors } from './weights.ts';

const TOWER = 'model.vision_tower.vision_tower.vision_model';
const [SIDE, PATCHES, WIDTH, TEXT] = [8, 4, 16, 3];

function configOf(earlyTextRows: 'uniform' | 'masked'): FusionConfig {
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
    num_of_vision_sampler_layers: 0,
    start_of_vision_sampler_layers: 0,
    stride_of_vision_sampler_layers: 1,
    early_text_rows: earlyTextRows,
    vision_config: {
      hidden_size: WIDTH,
      intermediate_size: 16,
      num_attention_heads: 2,
      num_hidden_layers: 5,
      image_size: SIDE,
      patch_size: 4,
      layer_norm_eps: 1e-6,
    },
  };
  return parseFusionConfig(json, 'test');
}

const random = new Random(5);
const normal = (shape: readonly number[], deviation = 1): HostTensor => {
  const data = new Float32Array(shape.reduce((a, b) => a * b, 1));
  random.fillNormal(data, deviation);
  return { dtype: 'f32', shape, data };
};

/** Text rows of mean(hidden[0], hidden[1]): what one early layer did to the question. */
async function earlyText(mode: 'uniform' | 'masked') {
  const config = configOf(mode);
  const weights = new Map([...expectedTensors(config)].filter(([name]) => name.startsWith(TOWER)));
  const tensors = parameterInputs(weights);
  const question = {
    hiddenStates: input('text', 'f32', [1, TEXT, WIDTH]),
    padding: equal(input('instructs', 'i32', [1, TEXT]), 0),
  };
  const p = parameters(tensors).in(TOWER);
  const { connected } = visionTower(p, input('pixels', 'f32', [1, 3, SIDE, SIDE]), config, question);
  const low = slice(slice(connected, 1, PATCHES, TEXT), 2, WIDTH, WIDTH);
  const executable = await new LocalDevice({ threads: 1 }).load(program('early', { low }));
  const feeds = Object.fromEntries([...weights].map(([name, shape]) => [name, normal(shape, 0.5)]));
  return async (pixels: HostTensor, text: HostTensor, instructs: number[]) => {
    const ids = { dtype: 'i32' as const, shape: [1, TEXT], data: Int32Array.from(instructs) };
    const { outputs } = await executable.run({ ...feeds, pixels, text, instructs: ids });
    return [...(outputs.low!.data as Float32Array)];
  };
}

describe.each(['uniform', 'masked'] as const)('early text rows %s', (mode) => {
  const [picture, other] = [normal([1, 3, SIDE, SIDE]), normal([1, 3, SIDE, SIDE])];
  const text = normal([1, TEXT, WIDTH]);
  const changed = { ...text, data: (text.data as Float32Array).slice() };
  changed.data.fill(3, 2 * WIDTH);

  it(mode === 'masked' ? 'do not see the picture' : 'average the picture too', async () => {
    const run = await earlyText(mode);
    const same =
      JSON.stringify(await run(picture, text, [1, 1, 0])) ===
      JSON.stringify(await run(other, text, [1, 1, 0]));
    expect(same).toBe(mode === 'masked');
  });

  it(mode === 'masked' ? 'do not see padding' : 'average padding too', async () => {
    const run = await earlyText(mode);
    const rows = async (t: HostTensor) => (await run(picture, t, [1, 1, 0])).slice(0, 2 * WIDTH);
    const same = JSON.stringify(await rows(text)) === JSON.stringify(await rows(changed));
    expect(same).toBe(mode === 'masked');
  });

  it('stay finite when all of the question is padding', async () => {
    const run = await earlyText(mode);
    expect((await run(picture, text, [0, 0, 0])).every(Number.isFinite)).toBe(true);
  });
});
