/** `fusion average`: a checkpoint whose weights lie between those of two. */
import type { Command } from 'commander';
import { terminalProgress } from '../common/progress.ts';
import { findModel } from './modelName.ts';
import { decimal } from './options.ts';

type Flags = { readonly out: string; readonly share: number; readonly quiet?: boolean };

export function registerAverage(program: Command): void {
  program
    .command('average')
    .description('make a checkpoint whose weights lie between those of two, such as late ones of a run')
    .argument('<first>', 'folder or hub id of a FUSION checkpoint')
    .argument('<second>', 'another one with the same tensors')
    .requiredOption('-o, --out <dir>', 'folder to make')
    .option('--share <x>', 'weight of the second, 0 to 1', decimal, 0.5)
    .option('-q, --quiet', 'no progress')
    .action(average);
}

async function average(firstName: string, secondName: string, flags: Flags): Promise<void> {
  const first = await findModel(firstName, flags.quiet);
  const second = await findModel(secondName, flags.quiet);
  const { averageFolder } = await import('../checkpoint/averageFolder.ts');
  const onProgress = terminalProgress(process.stderr, { enabled: !flags.quiet });
  try {
    await averageFolder({ first, second, share: flags.share, out: flags.out, onProgress });
  } finally {
    onProgress.end();
  }
  process.stdout.write(`${flags.out}\n`);
}
