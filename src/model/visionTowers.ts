/**
 * The vision towers FUSION was released with: their sizes by name, since released configs name only the tower.
 *
 * Knows nothing of checkpoints or of what the model does with the sizes.
 * Source: the configurations of `google/siglip-so400m-patch14-384` and `google/siglip2-giant-opt-patch16-384`.
 */
/** The sizes of the two towers FUSION was released with, in `vision_config`'s keys. */
const TOWERS: Readonly<Record<string, TowerSizes>> = {
  'siglip-so400m-patch14-384': towerOf(1152, 4304, 16, 27, 14),
  'siglip2-giant-opt-patch16-384': towerOf(1536, 6144, 16, 40, 16),
};

/** A tower's sizes; `num_hidden_layers` counts the pretrained layers. */
export type TowerSizes = ReturnType<typeof towerOf>;

function towerOf(hidden: number, intermediate: number, heads: number, layers: number, patch: number) {
  return {
    hidden_size: hidden,
    intermediate_size: intermediate,
    num_attention_heads: heads,
    num_hidden_layers: layers,
    image_size: 384,
    patch_size: patch,
    layer_norm_eps: 1e-6,
  };
}

/** The names `towerSizes` knows. */
export const KNOWN_TOWERS: readonly string[] = Object.keys(TOWERS);

/** The sizes a tower's name stands for: a model id, or a path whose last component contains a known name. */
export function towerSizes(tower: string): TowerSizes | undefined {
  const last =
    tower
      .replace(/[\\/]+$/, '')
      .split(/[\\/]/)
      .at(-1) ?? '';
  return Object.entries(TOWERS).find(([name]) => last.includes(name))?.[1];
}
