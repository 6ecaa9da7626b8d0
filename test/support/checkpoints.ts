/** Copies of the golden checkpoints that tests may change, and what tests know of the golden values. */
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const GOLDEN = fileURLToPath(new URL('../fixtures/golden', import.meta.url));

const TOKENIZER_OF = { 'llama-small': 'llama3', 'llama-siglip': 'llama3', 'phi3-siglip2': 'phi3' } as const;

export interface CheckpointCopy {
  readonly dir: string;
  remove(): void;
}

/**
 * A folder with a golden one-file checkpoint, its tokenizer and changes to config.json. `llama-small` has a
 * context of 120, too short for the format's system text, so it gets one of 1024 unless `changes` say otherwise.
 */
export function copyCheckpoint(
  name: 'llama-small' | 'phi3-siglip2' = 'llama-small',
  changes: Readonly<Record<string, unknown>> = {},
): CheckpointCopy {
  const dir = mkdtempSync(join(tmpdir(), 'fusion-test-'));
  const from = join(GOLDEN, name);
  const config: Record<string, unknown> = JSON.parse(readFileSync(join(from, 'config.json'), 'utf8'));
  const longer = { tokenizer_model_max_length: 1024 };
  writeFileSync(join(dir, 'config.json'), JSON.stringify({ ...config, ...longer, ...changes }));
  copyFileSync(join(from, 'model.safetensors'), join(dir, 'model.safetensors'));
  for (const file of ['tokenizer.json', 'tokenizer_config.json']) {
    copyFileSync(join(GOLDEN, 'tokenizers', TOKENIZER_OF[name], file), join(dir, file));
  }
  return { dir, remove: () => rmSync(dir, { recursive: true, force: true }) };
}

/** The pixels all golden cases of one sample use (golden README): f32 [1, 5, 3, S, S]. */
export function goldenPixels(side: number): Float32Array {
  return Float32Array.from({ length: 5 * 3 * side * side }, (_, i) => {
    let h = Math.imul(Math.floor(i / 7) + 1, 2654435761);
    h = Math.imul(h ^ (h >>> 15), 2246822519);
    return ((h >>> 24) / 255 - 0.5) / 0.5;
  });
}
