/**
 * `fusion merge`: an adapter's training put into the checkpoint it belongs to, so that nothing else is needed to run
 * it.
 */
import { type Command, Option } from 'commander';
import { terminalProgress } from '../common/progress.ts';
import { DTYPES, type DtypeFlag, weightDtype } from './dtypeOption.ts';
import { findModel } from './modelName.ts';

type Flags = { readonly out: string; readonly dtype: DtypeFlag; readonly quiet?: boolean };

export function registerMerge(program: Command): void {
  program
    .command('merge')
    .description('merge a LoRA or adapter-only checkpoint into its base')
    .argument('<base>', 'folder or hub id of the FUSION checkpoint the adapter was trained on')
    .argument(
      '<adapter>',
      'PEFT folder (adapter_config.json), or mm_projector.bin or its folder; or a hub id',
    )
    .requiredOption('-o, --out <dir>', 'folder to make')
    .addOption(new Option('--dtype <name>', 'dtype of the weights').choices(DTYPES).default('same'))
    .option('-q, --quiet', 'no progress')
    .action(merge);
}

async function merge(baseName: string, adapterName: string, flags: Flags): Promise<void> {
  const base = await findModel(baseName, flags.quiet);
  const adapter = await findModel(adapterName, flags.quiet);
  const { mergeFolder } = await import('../train/mergeFolder.ts');
  const onProgress = terminalProgress(process.stderr, { enabled: !flags.quiet });
  try {
    await mergeFolder({ base, adapter, out: flags.out, dtype: weightDtype(flags.dtype), onProgress });
  } finally {
    onProgress.end();
  }
  process.stdout.write(`${flags.out}\n`);
}
