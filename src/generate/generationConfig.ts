/** What `generation_config.json` says of the end of an answer. Source: the layout of Hugging Face checkpoints. */
import { readFile } from 'node:fs/promises';
import { parseJsonObject } from '../checkpoint/jsonText.ts';
import { messageOf, UserError } from '../common/errors.ts';
import type { FusionConfig } from '../model/config.ts';

/**
 * `eos_token_id` of the file, one id or several; config.json's where the file or the key is absent.
 *
 * @throws UserError for a file that is not JSON, and for ids that are none.
 */
export async function generationEosIds(file: string, config: FusionConfig): Promise<readonly number[]> {
  const bytes = await readOptional(file);
  const value = bytes === undefined ? undefined : parseJsonObject(bytes, file).eos_token_id;
  if (value === undefined || value === null) return config.eosIds;
  const ids: readonly unknown[] = Array.isArray(value) ? value : [value];
  return ids.map((id) => {
    if (typeof id === 'number' && Number.isSafeInteger(id) && id >= 0) return id;
    throw new UserError(
      `${file}: eos_token_id: expected a token id or an array of them, got ${JSON.stringify(value)}`,
    );
  });
}

async function readOptional(file: string): Promise<Uint8Array | undefined> {
  try {
    return await readFile(file);
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    if (code === 'ENOENT') return undefined;
    throw new UserError(`${file}: cannot be read (${messageOf(error)})`);
  }
}
