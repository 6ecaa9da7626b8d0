/** `fusion pull`: a model from the hub into Hugging Face's cache; prints the folder it is in. Knows only its options. */
import type { Command } from 'commander';
import { UserError } from '../common/errors.ts';
import { note, screenProgress } from './screen.ts';

const INTERRUPTED = 130;

const HELP = `
Only what a model needs is downloaded: configuration, tokenizer, safetensors weights. What is in the cache already is
not downloaded again, and a download that was stopped goes on where it stood. Commands that take a model's folder also
take its id.

Environment: HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_HUB_OFFLINE, HF_ENDPOINT, HF_HUB_DOWNLOAD_TIMEOUT (see docs/hub.md).

Examples:
  fusion pull starriver030515/FUSION-X-Phi3.5-3B
  fusion ask --model starriver030515/FUSION-X-Phi3.5-3B --image photo.jpg "What is this?"`;

export function registerPull(program: Command): void {
  program
    .command('pull')
    .description('download a model from the Hugging Face hub')
    .argument('<id>', 'owner/name, or owner/name@revision')
    .option('-q, --quiet', 'no progress, no notes')
    .addHelpText('after', HELP)
    .action(pull);
}

async function pull(text: string, { quiet = false }: { readonly quiet?: boolean }): Promise<void> {
  const { parseHubId } = await import('../checkpoint/hub/ids.ts');
  const id = parseHubId(text);
  if (id === undefined) throw new UserError(`id: expected owner/name or owner/name@revision, got ${text}`);
  const { pullModel } = await import('../checkpoint/hub/resolve.ts');
  const progress = screenProgress(quiet);
  const say = (line: string) => {
    progress.end();
    if (!quiet) note(line);
  };
  const stopper = new AbortController();
  // A second Ctrl-C ends the process at once.
  process.once('SIGINT', () => stopper.abort());
  try {
    const { signal } = stopper;
    const { folder, fetchedBytes } = await pullModel(id, { onProgress: progress, onNote: say, signal });
    progress.end();
    if (fetchedBytes === 0) say(`${text}: everything is in the cache`);
    process.stdout.write(`${folder}\n`);
  } catch (error) {
    if (!stopper.signal.aborted) throw error;
    say('stopped; the same command goes on where it stood');
    process.exitCode = INTERRUPTED;
  } finally {
    progress.end();
  }
}
