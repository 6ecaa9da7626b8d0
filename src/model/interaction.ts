/**
 * Interaction layers (context-aware recursive alignment decoding, paper section 3.2): between decoder layers
 * the latents of each question read their windows of the picture again, with the question in hand.
 * Shapes: L latents over all questions of the batch, R = B·q windows, w² cells in each, D width.
 */
import { add, concat, dimOf, gather, gelu, layerNorm, reshape, type Tensor } from '../graph/index.ts';
import { attention, type ObserveAttention, splitHeads } from '../graph/nn.ts';
import type { InteractionConfig } from './config.ts';
import type { Parameters } from './parameters.ts';

const NORM_EPS = 1e-5;

export interface InteractionInputs {
  /** Hidden states at the latents' positions: [L, D]. */
  readonly latents: Tensor;
  /** Hidden states at the end of each latent's question: [L, D]. */
  readonly questions: Tensor;
  /** Context cells: [R, w², D]. */
  readonly windows: Tensor;
  /** Which window each latent looks at: i32 [L]. */
  readonly windowIndex: Tensor;
}

/** The new hidden states of the latents: [L, D]. observe: sees how they attend to their windows, [L, H, 1, w²]. */
export function interactionLayer(
  p: Parameters,
  inputs: InteractionInputs,
  c: InteractionConfig,
  observe?: ObserveAttention,
): Tensor {
  const { latents, questions, windows, windowIndex } = inputs;
  const u = p.linear('proj_in', concat([questions, latents], -1));
  const context = p.linear('proj_context', windows);
  const cross = p.in('cross_attn');
  // A question's windows are the image's own: keys and values are made once and shared by its questions.
  const q = splitHeads(asRows(project(cross, 'q_proj', u)), c.heads);
  const [k, v] = ['k_proj', 'v_proj'].map((name) =>
    splitHeads(gather(project(cross, name, context), windowIndex), c.heads),
  );
  const scale = (headWidth(latents) / c.heads) ** -0.5;
  const read = attention(q, k as Tensor, v as Tensor, scale, undefined, observe);
  const attended = cross.linear('o_proj', reshape(read, latents.shape));
  const z = norm(p.in('norm'), add(attended, u));
  const update = p.linear('proj_out.linear_2', gelu(p.linear('proj_out.linear_1', z), 'none'));
  return add(latents, update);
}

/** LayerNorm, then Linear without bias. */
function project(p: Parameters, name: string, x: Tensor): Tensor {
  return p.linear(`${name}.1`, norm(p.in(`${name}.0`), x));
}

const norm = (p: Parameters, x: Tensor): Tensor => layerNorm(x, p.get('weight'), p.get('bias'), NORM_EPS);

const headWidth = (x: Tensor): number => Number(dimOf(x, -1));

/** [L, D] → [L, 1, D]: each latent is the only query of its window. */
const asRows = (x: Tensor): Tensor => reshape(x, [dimOf(x, 0), 1, dimOf(x, 1)]);
