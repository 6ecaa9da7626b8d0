/**
 * `fusion export`: a model as plain ONNX files, for other programs. Knows only how to read its options.
 */
import type { Command } from 'commander';
import { findModel } from './modelName.ts';
import { integer } from './options.ts';
import { screenProgress } from './screen.ts';

type Flags = {
  readonly onnx: string;
  readonly tokenizer?: string;
  readonly queryLen?: number;
  readonly quiet?: boolean;
};

const HELP = `
The folder has four graphs (tiles, whole picture with the question, prompt, one more token), their weights once, and
export.json, which says what to feed. A checkpoint as it was trained gives standard ONNX operators in f32; a converted
one also operators of ONNX Runtime's own. docs/export.md tells how to run them.

Examples:
  fusion export models/tiny --onnx exported
  fusion export models/FUSION-X-Phi3.5-3B-int4 --onnx exported --query-len 36`;

export function registerExport(program: Command): void {
  program
    .command('export')
    .description('write a model as ONNX files that other programs run')
    .argument('<source>', 'folder of the checkpoint, as trained or converted, or its id on the hub')
    .requiredOption('--onnx <dir>', 'folder to make')
    .option('--tokenizer <dir>', 'folder with tokenizer.json, where the model has none')
    .option('--query-len <n>', 'latent tokens per question, a perfect square (default: the model’s)', integer)
    .option('-q, --quiet', 'no progress')
    .addHelpText('after', HELP)
    .action(exportModel);
}

async function exportModel(name: string, flags: Flags): Promise<void> {
  const { onnx: out, tokenizer, queryLen: queryLength, quiet = false } = flags;
  const { exportFolder } = await import('../generate/export/exportFolder.ts');
  const source = await findModel(name, quiet);
  const onProgress = screenProgress(quiet);
  await exportFolder({ source, out, tokenizer, queryLength, onProgress }).finally(() => onProgress.end());
  process.stdout.write(`${out}\n`);
}
