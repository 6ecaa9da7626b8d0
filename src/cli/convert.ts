/**
 * `fusion convert`: a checkpoint in another weight format, for less memory and faster decoding. Knows only how to read
 * its options.
 */
import { type Command, Option } from 'commander';
import { type PartFormats, WEIGHT_FORMATS, type WeightFormat } from '../checkpoint/quantise/formats.ts';
import { findModel } from './modelName.ts';
import { positive } from './options.ts';
import { screenProgress } from './screen.ts';

type Flags = {
  readonly weights: WeightFormat;
  readonly lmHead?: WeightFormat;
  readonly vision?: WeightFormat;
  readonly projectors?: WeightFormat;
  readonly interaction?: WeightFormat;
  readonly threads?: number;
  readonly quiet?: boolean;
};

const HELP = `
int4 and int8 are whole numbers in blocks of 32 with one scale each. --weights names the format of the decoder's
layers; with int4 the other parts are int8 unless they are named. Everything that takes a checkpoint folder to answer
takes a converted one. "fusion compare" tells what the conversion changed.

Examples:
  fusion convert models/FUSION-X-Phi3.5-3B models/FUSION-X-Phi3.5-3B-int4 --weights int4
  fusion convert models/tiny /tmp/tiny-int4 --weights int4 --vision f16`;

export function registerConvert(program: Command): void {
  const format = (flags: string, text: string) => new Option(flags, text).choices(WEIGHT_FORMATS);
  program
    .command('convert')
    .description('round the weights of a checkpoint to 8 or 4 bits, or keep them as F16 or F32')
    .argument('<source>', 'folder of the checkpoint, or its id on the hub')
    .argument('<folder>', 'folder to make')
    .addOption(format('--weights <format>', "format of the decoder's layers").makeOptionMandatory())
    .addOption(format('--lm-head <format>', 'format of the output layer'))
    .addOption(format('--vision <format>', 'format of the vision tower'))
    .addOption(format('--projectors <format>', 'format of the two projectors'))
    .addOption(format('--interaction <format>', 'format of the interaction layers'))
    .option('--threads <n>', 'threads that round (default: all cores)', positive)
    .option('-q, --quiet', 'no progress')
    .addHelpText('after', HELP)
    .action(convert);
}

async function convert(source: string, out: string, flags: Flags): Promise<void> {
  const { convertFolder } = await import('../checkpoint/quantise/convert.ts');
  const { partFormats } = await import('../checkpoint/quantise/formats.ts');
  const { weights, lmHead, vision, projectors, interaction, threads, quiet = false } = flags;
  const chosen = { lm_head: lmHead, vision, projectors, interaction };
  const given = Object.fromEntries(Object.entries(chosen).filter(([, format]) => format !== undefined));
  const formats = partFormats(weights, given as Partial<PartFormats>);
  const folder = await findModel(source, quiet);
  const onProgress = screenProgress(quiet);
  await convertFolder({ source: folder, out, formats, threads, onProgress }).finally(() => onProgress.end());
  process.stdout.write(`${out}\n`);
}
