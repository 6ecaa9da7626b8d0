/**
 * A model → a folder of plain ONNX files that other programs run with ONNX Runtime: four graphs, their weights once
 * (external data inside safetensors files), and a JSON that says what to feed. The folder appears whole or not at all.
 * docs/export.md has the layout.
 */
import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { openCheckpoint } from '../../checkpoint/folder.ts';
import { parseJsonObject } from '../../checkpoint/jsonText.ts';
import {
  copyFiles,
  GENERATION_FILE,
  TOKENIZER_FILES,
  writeJson,
  writeNewFolder,
  writeWeights,
} from '../../checkpoint/newFolder.ts';
import { QUANTIZATION_KEY } from '../../checkpoint/quantise/formats.ts';
import { messageOf, UserError } from '../../common/errors.ts';
import type { OnProgress } from '../../common/progress.ts';
import type { Program } from '../../graph/index.ts';
import type { FusionConfig } from '../../model/config.ts';
import {
  decodeProgram,
  type Overlay,
  prefillProgram,
  tileProgram,
  wholeProgram,
} from '../../model/programs.ts';
import { graphWithConstants } from '../../onnx/constants.ts';
import { encodeModel } from '../../onnx/model.ts';
import { checkQueryLength } from '../limits.ts';
import { type ModelFiles, readModelFiles } from '../model.ts';
import { type ExportedGraph, exportJson } from './exportJson.ts';
import { constantsOf, exportedEntries, roundedOverlay, weightsToExport } from './exportWeights.ts';

export interface ExportOptions {
  /** Folder of the checkpoint, as it was trained or converted. */
  readonly source: string;
  /** Folder with `tokenizer.json`; the model's own unless given. */
  readonly tokenizer?: string | undefined;
  /** The folder to make; it must not exist, or be empty. */
  readonly out: string;
  /** Latents per question; the model's default unless given. */
  readonly queryLength?: number | undefined;
  readonly maxShardBytes?: number | undefined;
  readonly onProgress?: OnProgress | undefined;
}

/**
 * Exports a model.
 *
 * @throws UserError for a folder that is no checkpoint, a query length the model cannot use, an `out` with something
 * in it, and a disk that refuses; then `out` is not made.
 */
export async function exportFolder(options: ExportOptions): Promise<void> {
  const { source, out, tokenizer = source, maxShardBytes, onProgress } = options;
  const files = await readModelFiles(source, { tokenizer });
  const { queryLength } = checkQueryLength(files.config, options.queryLength);
  checkVocabulary(files);
  const weights = weightsToExport(files);
  await writeNewFolder(out, async (dir) => {
    await writeWeights(dir, exportedEntries(weights), { maxShardBytes, onProgress });
    const constants = constantsOf(await openCheckpoint(dir));
    const graphs: ExportedGraph[] = [];
    for (const program of programsOf(files.config, queryLength, roundedOverlay(weights.rounded))) {
      const { graph } = graphWithConstants(program, 'portable', constants);
      const file = `${program.name}.onnx`;
      await writeBytes(path.join(dir, file), encodeModel(graph));
      graphs.push({ file, graph });
    }
    await writeJson(path.join(dir, 'export.json'), exportJson(files, queryLength, graphs));
    await writeJson(path.join(dir, 'config.json'), await plainConfig(source));
    await copyFiles(tokenizer, dir, TOKENIZER_FILES);
    await copyFiles(source, dir, [GENERATION_FILE]);
  });
}

/** In the order they run. */
function programsOf(config: FusionConfig, queryLength: number, overlay?: Overlay): readonly Program[] {
  return [
    tileProgram(config, overlay),
    wholeProgram(config, overlay),
    prefillProgram(config, queryLength, overlay),
    decodeProgram(config, overlay),
  ];
}

function checkVocabulary({ dir, trained, config }: ModelFiles): void {
  const [rows, ids] = [trained.decoder.vocabSize, config.decoder.vocabSize];
  if (rows === ids) return;
  throw new UserError(
    `${dir}: expected a vocabulary row for each of the tokenizer's ${ids} ids to export it, got ${rows}`,
  );
}

async function writeBytes(file: string, bytes: Uint8Array): Promise<void> {
  await writeFile(file, bytes).catch((error: unknown) => {
    throw new UserError(`${file}: ${messageOf(error)}`);
  });
}

/** config.json without what it says of a converted folder's layout, which the export's is not. */
async function plainConfig(source: string): Promise<Record<string, unknown>> {
  const file = path.join(source, 'config.json');
  const { [QUANTIZATION_KEY]: _, ...json } = parseJsonObject(await readFile(file), file);
  return json;
}
